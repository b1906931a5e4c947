package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func runsDiscardCommand(a *app) *cobra.Command {
	var s selection
	var r request
	c := &cobra.Command{
		Use:   "discard [RUN...]",
		Short: "Close what failed, without success",
		Long: `Close all FAILED runs that are selected as DISCARDED. Their errors stay on
record. With --status PENDING, those that wait, and that no handler works on.`,
		Example: `  reprise runs discard 17 --reason 'test order'
  reprise runs discard --handler old-crm --status PENDING --reason 'the CRM is gone' --dry-run`,
		RunE: func(c *cobra.Command, args []string) error {
			f, err := s.named(args)
			if err != nil {
				return err
			}
			if r.reason == "" && !r.dryRun {
				return usage(errors.New("--reason is missing: whoever looks for these runs will want to know why they are closed"))
			}
			if err := r.check(store.Discarding, f); err != nil {
				return err
			}
			return a.toWrite(c.Context(), r.dryRun, func(st *store.Store) error { return a.discard(c.Context(), st, f, r) })
		},
	}
	s.add(c)
	r.add(c)
	r.addDryRun(c)
	return c
}

func (a *app) discard(ctx context.Context, st *store.Store, f store.Filter, r request) error {
	p, err := replay.PreviewDiscard(ctx, st, f, r.request(nil))
	if err != nil {
		return err
	}
	if err := a.checkPlan(p); err != nil {
		return err
	}
	if r.dryRun {
		return a.dryRun(p, fmt.Sprintf("%s would be discarded.", words.Counted(p.Total, "run")))
	}
	if err := a.confirm(ctx, r.yes, fmt.Sprintf("Discard %s?", p)); err != nil {
		return err
	}
	return a.carryOut(ctx, st, r, p.Total.N, "discarding", func(request replay.Request) (store.Operation, error) {
		return replay.Discard(ctx, st, f, request)
	})
}
