package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// request is the flags of commands that change runs: who wants it, why, and how.
type request struct {
	by, reason     string
	rate           rate
	evenSuccessful bool
	dryRun, yes    bool
	wait           bool
}

func (r *request) add(c *cobra.Command) {
	r.addWho(c)
	c.Flags().BoolVarP(&r.yes, "yes", "y", false, "do not ask")
}

// addWho adds the flags for who wants it, and why.
func (r *request) addWho(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&r.by, "by", "", "who wants it; default: the user of this system")
	flags.StringVar(&r.reason, "reason", "", "why, for those who read the record")
}

func (r *request) addDryRun(c *cobra.Command) {
	c.Flags().BoolVar(&r.dryRun, "dry-run", false, "only say what would be done")
}

// addPace adds the flags for runs that become due.
func (r *request) addPace(c *cobra.Command) {
	c.Flags().Var(&r.rate, "rate", "how many runs become due, such as 50/s, 600/m or 1000/h; default: all at once")
	c.Flags().BoolVar(&r.wait, "wait", false, "follow the runs until all have ended; fails when one failed again")
}

func (r *request) request(progress func(store.Operation)) replay.Request {
	return replay.Request{By: r.by, Reason: r.reason, Rate: float64(r.rate), EvenSuccessful: r.evenSuccessful, Progress: progress}
}

// atRate returns the rate as the end of a sentence.
func (r *request) atRate(runs int64) string {
	if r.rate == 0 {
		return ""
	}
	return fmt.Sprintf(", at %s for %s", rateText(float64(r.rate)), words.Ago(time.Duration(float64(runs)/float64(r.rate)*float64(time.Second))))
}

// carryOut carries a request out, shows its progress, and reports the result.
func (a *app) carryOut(ctx context.Context, st *store.Store, r request, total int64, what string, begin func(replay.Request) (store.Operation, error)) error {
	m := a.meter(what, total)
	o, err := begin(r.request(func(o store.Operation) { m.set(o.Taken, "") }))
	m.clear()
	if err != nil {
		if o.ID != 0 && o.Kind.OnRuns() {
			a.say("Operation %d (%s) is on record. It stopped after %s of %s.\nTo go on: reprise replays resume %d. To take it back: reprise replays %s %d.",
				o.ID, o.Kind, words.Thousands(o.Taken), words.Several(o.Total.N, "run"), o.ID, takeBack(o.Kind), o.ID)
		}
		return err
	}
	return a.conclude(ctx, st, o.ID, r.wait)
}

// takeBack returns the command that takes an operation back.
func takeBack(kind store.OperationKind) string {
	if kind == store.Discarding {
		return "undo"
	}
	return "cancel"
}

// conclude prints the progress of an operation. With wait, it follows the operation to
// its end.
func (a *app) conclude(ctx context.Context, st *store.Store, id int64, wait bool) error {
	look := st.Progress
	if wait {
		look = func(ctx context.Context, id int64) (store.Progress, error) { return a.follow(ctx, st, id) }
	}
	p, err := look(ctx, id)
	if err != nil {
		return err
	}
	if err := a.printOperation(ctx, st, p); err != nil {
		return err
	}
	if wait && p.Failed > 0 {
		return fmt.Errorf("%s failed again: reprise runs list --replay %d --status FAILED", words.Several(p.Failed, "run"), id)
	}
	return nil
}
