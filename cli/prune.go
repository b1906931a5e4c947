package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func pruneCommand(a *app) *cobra.Command {
	var olderThan age
	var p store.Prune
	var r request
	c := &cobra.Command{
		Use:   "prune",
		Short: "Delete old events with their runs",
		Long: `Delete events that were published, and whose runs all ended, so long ago, with
their runs and attempts. What is PENDING stays, and what FAILED unless --failed
says otherwise. What is DISCARDED stays as long as the discard can be undone,
unless --discarded says otherwise. Of the outbox, what was SENT or DROPPED so
long ago.

It goes batch by batch: after Ctrl-C, what is gone stays gone. With --dry-run,
what would go is counted.`,
		Example: `  reprise prune --older-than 90d --dry-run
  reprise prune --older-than 720h --failed --yes`,
		Args: cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			if olderThan.Duration <= 0 {
				return usage(errors.New("--older-than is missing: " + ageUsage))
			}
			return a.toWrite(ctx, r.dryRun, func(st *store.Store) error {
				return a.prune(ctx, st, olderThan.Duration, p, r)
			})
		}),
	}
	c.Flags().Var(&olderThan, "older-than", "how long ago, such as 720h or 30d")
	c.Flags().BoolVar(&p.Failed, "failed", false, "events with FAILED runs, too")
	c.Flags().BoolVar(&p.Discarded, "discarded", false, "events with DISCARDED runs, too, though the discard can then not be undone")
	c.Flags().BoolVar(&r.dryRun, "dry-run", false, "only count what would be deleted")
	r.add(c)
	return c
}

func (a *app) prune(ctx context.Context, st *store.Store, olderThan time.Duration, p store.Prune, r request) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	p.Before, p.DryRun, p.By = now.Add(-olderThan), r.dryRun, store.By{Name: r.by, Reason: r.reason}
	what := "events whose runs all ended"
	switch {
	case p.Failed && p.Discarded:
		what += ", those that FAILED or are DISCARDED included"
	case p.Failed:
		what += ", those that FAILED included, but for DISCARDED ones"
	case p.Discarded:
		what += ", DISCARDED ones included, but for those that FAILED"
	default:
		what += ", but for those that FAILED or are DISCARDED"
	}
	if err := a.confirm(ctx, r.yes || r.dryRun, fmt.Sprintf("Delete for good the %s, and what was sent from the outbox or dropped, before %s?", what, p.Before.Local().Format(time.DateTime))); err != nil {
		return err
	}
	doing, done, after := "deleting events", "Deleted", ""
	if r.dryRun {
		doing, done, after = "counting events", "Would delete", " Nothing was done."
	}
	m := a.meter(doing, 0)
	total, err := replay.Prune(ctx, st, p, func(done store.Pruned) { m.set(done.Events, "") })
	m.clear()
	return errors.Join(err, a.print(wire.NewPruned(p.Before, total), func(out io.Writer) {
		fmt.Fprintf(out, "%s %s with %s, and %s of the outbox.%s\n", done,
			words.Several(total.Events, "event"), words.Several(total.Runs, "run"), words.Several(total.Outgoing, "message"), after)
	}))
}
