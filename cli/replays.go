package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func replaysCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "replays",
		Short: "See and steer replays, discards, edits, backfills and other operations",
		Long: `What is done to runs is an operation on record: by whom, why, and how far it is.
So is what is done to the outbox, and what is published by hand.`,
		Example: "  reprise replays list\n  reprise replays show 7 --wait\n  reprise replays pause 7",
	}, replaysListCommand(a), replaysShowCommand(a), replaysPauseCommand(a), replaysResumeCommand(a), replaysCancelCommand(a), replaysUndoCommand(a))
}

func replaysListCommand(a *app) *cobra.Command {
	return a.newestFirst("operations", "List operations of all kinds, the newest first", "  reprise replays list --limit 10", a.replaysList)
}

func (a *app) replaysList(ctx context.Context, st *store.Store, before int64, limit int) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	operations, err := st.Operations(ctx, before, limit)
	if err != nil {
		return err
	}
	next := int64(0)
	if len(operations) == limit && operations[limit-1].ID > 1 {
		next = operations[limit-1].ID
	}
	if err := a.print(wire.NewOperations(operations, next), func(out io.Writer) {
		if len(operations) > 0 {
			a.printOperations(out, operations, now)
		}
	}); err != nil {
		return err
	}
	if len(operations) == 0 {
		return nothing("no operation is on record")
	}
	if next != 0 {
		a.say("More: the same with --before %d", next)
	}
	return nil
}

func (a *app) printOperations(out io.Writer, operations []store.Operation, now time.Time) {
	t := a.table("ID", "KIND", "STATE", "TAKEN", "TOTAL", "RATE", "BY", "AT", "SELECTION", "REASON")
	for _, o := range operations {
		t.add(o.ID, o.Kind, stateOf(o), words.Thousands(o.Taken), o.Total, rateOf(o), o.RequestedBy, at(o.RequestedAt, now), selectionOf(o), o.Reason)
	}
	t.write(out)
}

// selectionOf returns what an operation selects, in the syntax of the command line.
func selectionOf(o store.Operation) string {
	if o.Kind.OnOutbox() {
		return outboxFlagsOf(o.Outbox)
	}
	return flagsOf(o.Selection)
}

// rateOf returns the rate of an operation that has one.
func rateOf(o store.Operation) string {
	if o.Kind != store.Replaying && o.Kind != store.Backfilling {
		return ""
	}
	return rateText(o.Rate)
}

// stateOf returns the state for people, who want to know whether runs are still to be
// taken up.
func stateOf(o store.Operation) string {
	switch {
	case o.State == store.Running && o.Complete && !o.Kind.OnRuns():
		return "over"
	case o.State == store.Running && o.Complete:
		return "requested"
	case o.State == store.Running:
		return "incomplete"
	}
	return string(o.State)
}

// stateNow is stateOf for an operation whose progress is known.
func stateNow(p store.Progress) string {
	if p.State == store.Running && p.Over() {
		return "over"
	}
	return stateOf(p.Operation)
}

func (a *app) printOperation(ctx context.Context, st *store.Store, p store.Progress) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	actions, err := st.ActionsOn(ctx, p.ID)
	if err != nil {
		return err
	}
	return a.print(wire.NewProgress(p, actions), func(out io.Writer) {
		printProgress(out, p, now)
		if len(actions) > 0 {
			fmt.Fprintln(out)
			a.printActions(out, actions, now)
		}
	})
}

func printProgress(out io.Writer, p store.Progress, now time.Time) {
	fields, o := newFields(out), p.Operation
	defer fields.flush()
	say := fields.say
	say("OPERATION", fmt.Sprintf("%d (%s)", o.ID, o.Kind))
	say("STATE", stateNow(p))
	say("REQUESTED", fmt.Sprintf("by %s at %s", o.RequestedBy, at(o.RequestedAt, now)))
	say("REASON", o.Reason)
	say("SELECTION", selectionOf(o))
	say("RATE", rateOf(o))
	if o.Kind == store.Publishing {
		say("PUBLISHED", words.Thousands(o.Taken))
	} else {
		say("TAKEN UP", fmt.Sprintf("%s of %s", words.Thousands(o.Taken), o.Total))
	}
	if o.Kind.HasProgress() {
		say("DONE", words.Thousands(p.Succeeded))
		say("FAILED AGAIN", words.Thousands(p.Failed))
		say("RUNNING", words.Thousands(p.Running))
		say("WAITING", words.Thousands(p.Waiting))
		for _, rare := range []struct {
			name string
			n    int64
		}{{"DISCARDED", p.Discarded}, {"ELSEWHERE", p.Elsewhere}} {
			if rare.n > 0 {
				say(rare.name, words.Thousands(rare.n))
			}
		}
		if o.Kind == store.Replaying {
			say("FAILED MEANWHILE", p.Arrived.String())
		}
	}
	say("NEXT", next(p))
}

// next returns the commands that can be typed now.
func next(p store.Progress) string {
	id := p.ID
	switch {
	case p.Kind == store.Sending || p.Kind == store.Releasing:
		return "reprise outbox status"
	case !p.Operation.Kind.OnRuns():
		return ""
	case p.State == store.Undone || p.State == store.Cancelled || p.Kind == store.Editing:
		return ""
	case p.Kind == store.Discarding && p.Complete:
		return fmt.Sprintf("reprise replays undo %d", id)
	case p.Kind == store.Discarding:
		return fmt.Sprintf("reprise replays resume %d, or undo %d", id, id)
	case p.State == store.Paused || !p.Complete:
		return fmt.Sprintf("reprise replays resume %d, or cancel %d", id, id)
	case p.Failed > 0 && p.Over():
		return fmt.Sprintf("reprise runs groups --replay %d", id)
	case !p.Over():
		return fmt.Sprintf("reprise replays show %d --wait, pause %d, or cancel %d", id, id, id)
	}
	return ""
}

// oneOperation makes a command that takes the id of an operation.
func (a *app) oneOperation(use, short, long, example string, f func(ctx context.Context, st *store.Store, id int64) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " OPERATION", Short: short, Long: long, Example: example,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || id < 1 {
				return usage(fmt.Errorf("operation %q: want its number, such as 7: see reprise replays list", args[0]))
			}
			return a.toWrite(c.Context(), use == "show", func(st *store.Store) error { return f(c.Context(), st, id) })
		},
	}
}

func replaysShowCommand(a *app) *cobra.Command {
	var wait bool
	c := a.oneOperation("show", "Show an operation and how far it is", "", "  reprise replays show 7\n  reprise replays show 7 --wait",
		func(ctx context.Context, st *store.Store, id int64) error { return a.conclude(ctx, st, id, wait) })
	c.Flags().BoolVar(&wait, "wait", false, "follow the runs until all have ended; fails when one failed again")
	return c
}

func replaysPauseCommand(a *app) *cobra.Command {
	var r request
	c := a.oneOperation("pause", "Keep what waits of a replay or a backfill waiting", `Keep what waits of a replay or a backfill waiting, until it is resumed. What a
handler works on goes on.`, "  reprise replays pause 7",
		func(ctx context.Context, st *store.Store, id int64) error {
			if _, err := replay.Pause(ctx, st, id, r.request(nil)); err != nil {
				return err
			}
			return a.conclude(ctx, st, id, false)
		})
	r.addWho(c)
	return c
}

func replaysResumeCommand(a *app) *cobra.Command {
	var r request
	c := a.oneOperation("resume", "Go on with an operation that was paused or interrupted", `Go on with a replay or a backfill that was paused, or with any operation whose
requester was interrupted: what is left is taken up.`, "  reprise replays resume 7",
		func(ctx context.Context, st *store.Store, id int64) error {
			o, err := st.Operation(ctx, id)
			if err != nil {
				return err
			}
			return a.carryOut(ctx, st, r, o.Total.N, "resuming", func(request replay.Request) (store.Operation, error) {
				return replay.Resume(ctx, st, id, request)
			})
		})
	c.Flags().BoolVar(&r.wait, "wait", false, "follow the runs until all have ended; fails when one failed again")
	r.addWho(c)
	return c
}

func replaysCancelCommand(a *app) *cobra.Command {
	var r request
	c := a.oneOperation("cancel", "Take back what waits of a replay or a backfill", `Take back what waits of a replay or a backfill, for good. A run that has not
been tried since stands where it stood; one that has been is FAILED; what a
backfill made is no more. What a handler works on goes on.`, "  reprise replays cancel 7",
		func(ctx context.Context, st *store.Store, id int64) error {
			if _, err := replay.Cancel(ctx, st, id, r.request(nil)); err != nil {
				return err
			}
			return a.conclude(ctx, st, id, false)
		})
	r.addWho(c)
	return c
}

func replaysUndoCommand(a *app) *cobra.Command {
	var r request
	c := a.oneOperation("undo", "Take a discard back", `Take a discard back, for the runs that nothing else has happened to since. It
says how many of the others were deleted since, as by prune --discarded, and how
many a later operation has taken up, which stay as they are even if that
operation was cancelled or undone.`, "  reprise replays undo 7",
		func(ctx context.Context, st *store.Store, id int64) error {
			_, done, err := replay.Undo(ctx, st, id, r.request(nil))
			if err != nil {
				return err
			}
			a.say("%s taken back.", words.Several(done.Runs, "run"))
			if done.Gone > 0 {
				a.say("Deleted since the discard, and not to be brought back: %s.", words.Several(done.Gone, "run"))
			}
			if done.Later > 0 {
				a.say("Taken up by a later operation since, and left as it is: %s.", words.Several(done.Later, "run"))
			}
			return a.conclude(ctx, st, id, false)
		})
	r.addWho(c)
	return c
}
