package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func runsReplayCommand(a *app) *cobra.Command {
	var s selection
	var r request
	c := &cobra.Command{
		Use:   "replay [RUN...]",
		Short: "Run again what failed",
		Long: `Run again what failed: all FAILED runs that are selected become due, and
whatever process serves their handlers runs them. The request is on record.

Of other statuses, only what is named: --status DISCARDED, or what succeeded by
--even-successful. What is PENDING is passed over. Ctrl-C while it is requested
stops it where it is; reprise replays says how to go on.`,
		Example: `  reprise runs replay 17 18 --reason 'address corrected'
  reprise runs replay --handler send-welcome-email --since 2h --dry-run
  reprise runs replay --group 3f2a9c5d7e8b1a40 --rate 50/s --reason 'mail server is back' --wait
  reprise runs replay --topic shipping.registered --payload order.id=4711 --yes`,
		RunE: func(c *cobra.Command, args []string) error {
			f, err := s.named(args)
			if err != nil {
				return err
			}
			if err := r.check(store.Replaying, f); err != nil {
				return err
			}
			return a.toWrite(c.Context(), r.dryRun, func(st *store.Store) error { return a.replay(c.Context(), st, f, r) })
		},
	}
	s.add(c)
	r.add(c)
	r.addPace(c)
	r.addDryRun(c)
	c.Flags().BoolVar(&r.evenSuccessful, "even-successful", false, "runs that succeeded, too: their handlers do it again")
	return c
}

// check reports what the store would refuse, before the database is opened.
func (r *request) check(kind store.OperationKind, f store.Filter) error {
	return usage(store.Operation{
		Kind: kind, RequestedBy: "somebody", Selection: f, Rate: float64(r.rate), EvenSuccessful: r.evenSuccessful,
	}.Validate())
}

func (a *app) replay(ctx context.Context, st *store.Store, f store.Filter, r request) error {
	p, err := replay.Preview(ctx, st, f, r.request(nil))
	if err != nil {
		return err
	}
	if err := a.checkPlan(p); err != nil {
		return err
	}
	if r.dryRun {
		return a.dryRun(p, fmt.Sprintf("%s would be replayed%s.", words.Counted(p.Total, "run"), r.atRate(p.Total.N)))
	}
	if err := p.Refusal(); err != nil {
		return fmt.Errorf("%w; nothing was replayed", err)
	}
	for _, o := range p.Obstacles() {
		a.say("%s", o)
	}
	if err := a.confirm(ctx, r.yes, fmt.Sprintf("Replay %s%s?", p, r.atRate(p.Total.N))); err != nil {
		return err
	}
	return a.carryOut(ctx, st, r, p.Total.N, "replaying", func(request replay.Request) (store.Operation, error) {
		return replay.All(ctx, st, f, request)
	})
}
