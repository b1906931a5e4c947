package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func backfillCommand(a *app) *cobra.Command {
	var r request
	var past replay.Past
	var since, until when
	c := &cobra.Command{
		Use:   "backfill HANDLER",
		Short: "Give a handler the past events of its topic",
		Long: `Give a handler runs for the past events of its topic that it has none for, the
oldest first.`,
		Example: `  reprise backfill grant-trial --since 2026-01-01 --dry-run
  reprise backfill grant-trial --since 2026-01-01 --rate 100/s --reason 'new handler'`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			past.Handler, past.Since, past.Until = args[0], since.Time, until.Time
			if err := r.check(store.Backfilling, store.Filter{Handler: past.Handler, Topic: past.Topic, Since: past.Since, Until: past.Until}); err != nil {
				return err
			}
			return a.toWrite(c.Context(), r.dryRun, func(st *store.Store) error { return a.backfill(c.Context(), st, past, r) })
		},
	}
	c.Flags().StringVar(&past.Topic, "topic", "", "topic, for a handler that has several")
	c.Flags().Var(&since, "since", "event published at or after: "+whenUsage)
	c.Flags().Var(&until, "until", "event published before; default: now")
	r.add(c)
	r.addPace(c)
	r.addDryRun(c)
	return c
}

func (a *app) backfill(ctx context.Context, st *store.Store, past replay.Past, r request) error {
	o, err := replay.PreviewBackfill(ctx, st, past, r.request(nil))
	if err != nil {
		return err
	}
	if o.Total.N == 0 {
		return nothing("handler %s has a run for every event of topic %s that is selected", past.Handler, o.Selection.Topic)
	}
	if r.dryRun {
		return a.print(wire.NewBackfillPlan(o), func(out io.Writer) {
			fmt.Fprintln(out, sentence("%s of topic %s would get a run of %s%s. Nothing was done.", words.Several(o.Total.N, "event"), o.Selection.Topic, past.Handler, r.atRate(o.Total.N)))
		})
	}
	if err := a.confirm(ctx, r.yes, fmt.Sprintf("Give %s a run for %s of topic %s%s?", past.Handler, words.Several(o.Total.N, "event"), o.Selection.Topic, r.atRate(o.Total.N))); err != nil {
		return err
	}
	return a.carryOut(ctx, st, r, o.Total.N, "backfilling", func(request replay.Request) (store.Operation, error) {
		return replay.Backfill(ctx, st, past, request)
	})
}
