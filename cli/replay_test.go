package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func TestReplay(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		ids := db.failed("mail", 3)

		r := db.reprise("runs", "replay", "--handler", "mail", "--dry-run").ok()
		require.Contains(t, r.out, "mail")
		require.Contains(t, r.errs, "3 runs would be replayed. Nothing was done.")
		require.Contains(t, r.errs, "No live instance serves mail (3)")
		var p replay.Plan
		db.reprise("runs", "replay", "--handler", "mail", "--dry-run", "-o", "json").ok().json(&p)
		require.EqualValues(t, 3, p.Total.N)
		require.True(t, p.Parts[0].Subscribed)
		require.Equal(t, store.Failed, db.status(ids[0]))

		db.reprise("runs", "replay").fails(exitUsage, "nothing is selected: name runs")
		db.reprise("runs", "replay", "--handler", "mail").fails(exitUsage, "Replay 3 runs of mail (3)? There is no terminal to ask on: say --yes")
		require.Equal(t, store.Failed, db.status(ids[0]))
		db.reprise("replays", "list").fails(exitNothing, "")

		r = db.reprise("runs", "replay", "--handler", "mail", "--rate", "60/m", "--by", "maria", "--reason", "back", "--yes").ok()
		require.Contains(t, r.out, "1 (replay)")
		require.Contains(t, r.out, "reprise replays show 1 --wait")
		require.Equal(t, store.Pending, db.status(ids[0]))
		o, err := db.Operation(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, []any{"maria", "back", 1.0}, []any{o.RequestedBy, o.Reason, o.Rate})

		db.reprise("runs", "replay", "--handler", "mail", "--yes").fails(exitNothing, "nothing is selected")
		db.reprise("runs", "replay", "--status", "SUCCESS", "--yes").fails(exitUsage, "--even-successful")
		db.reprise("runs", "replay", "--status", "PENDING", "--yes").fails(exitUsage, "replay runs of status PENDING")
		db.reprise("runs", "replay", "--all", "--rate", "fast").fails(exitUsage, "want runs per second")
	})
}

func TestReplayOfNamedRunsSaysWhichItCannot(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		failed := db.failed("mail", 1)[0]
		done := db.ended("mail", 1, store.Success)[0]
		db.reprise("runs", "replay", fmt.Sprint(done), "4711", "--yes").fails(exitNothing, fmt.Sprintf("nothing is selected: run %d is SUCCESS, run 4711 is not there", done))
		r := db.reprise("runs", "replay", fmt.Sprint(done), fmt.Sprint(failed), "--yes", "-o", "json").ok()
		require.Contains(t, r.errs, fmt.Sprintf("Not selected: run %d is SUCCESS.", done))
		require.EqualValues(t, 1, r.operation().Taken)
		require.EqualValues(t, 1, db.reprise("runs", "replay", fmt.Sprint(done), "--even-successful", "--yes", "-o", "json").ok().operation().Taken)
		require.Equal(t, store.Pending, db.status(done))
	})
}

func TestReplayOfAHandlerThatNobodyHasIsRefused(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		id := db.failed("gone", 1)[0]
		r := db.reprise("runs", "replay", "--all", "--dry-run").ok()
		require.Contains(t, r.errs, "Nobody is subscribed, so that the replay will be refused: gone (1).")
		db.reprise("runs", "replay", "--all", "--yes").fails(exitFailed, "no handler is subscribed for gone (1)")
		require.Equal(t, store.Failed, db.status(id))

		db.subscribe("gone")
		db.exec(`DELETE FROM reprise.events`)
		require.Contains(t, db.reprise("runs", "replay", "--all", "--dry-run").ok().errs, "The event is no longer in the database, so that the run will fail again: gone (1).")
	})
}

func TestReplayFollowsUntilAllIsOver(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.failed("mail", 4)
		var calls atomic.Int64
		db.serve("mail", func() error {
			if calls.Add(1) == 2 {
				return errors.New("still down")
			}
			return nil
		})
		r := db.reprise("runs", "replay", "--handler", "mail", "--yes", "--wait", "-o", "json").fails(exitFailed, "1 run failed again: reprise runs list --replay 1 --status FAILED")
		o := r.operation()
		require.True(t, o.Progress.Over)
		require.EqualValues(t, 3, o.Progress.Succeeded)
		require.EqualValues(t, 1, o.Progress.Failed)

		require.True(t, db.reprise("runs", "replay", "--all", "--yes", "--wait", "-o", "json").ok().operation().Progress.Over)
		r = db.reprise("replays", "show", "1", "--wait").ok()
		require.Contains(t, r.out, "ELSEWHERE")
		require.Contains(t, db.reprise("replays", "show", "2").ok().out, "DONE")
	})
}

func TestInterruptingTheWaitDoesNotStopTheReplay(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail") // nobody serves it
		db.failed("mail", 1)
		db.reprise("runs", "replay", "--all", "--yes").ok()
		// Later and later, until the interrupt finds the command waiting.
		var r result
		for after := 100 * time.Millisecond; !strings.Contains(r.errs, "It goes on") && after < time.Minute; after *= 2 {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			r = db.repriseWith(ctx, nil, strings.NewReader(""), "replays", "show", "1", "--wait")
			cancel()
		}
		r.fails(exitInterrupted, "It goes on without you. To watch again: reprise replays show 1 --wait")
	})
}

func TestInterruptingARequestSaysHowToGoOn(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		const runs = 12_000 // three batches
		db.manyFailed("mail", runs)
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		watched := make(chan error, 1)
		go func() {
			defer interrupt()
			for {
				o, err := db.Operation(ctx, 1)
				if err == nil && o.Taken > 0 || err != nil && !errors.Is(err, store.ErrNotFound) {
					watched <- err
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		r := db.repriseWith(ctx, nil, strings.NewReader(""), "runs", "replay", "--handler", "mail", "--yes")
		interrupt() // those who watch, if the command has ended by itself
		require.NoError(t, <-watched)
		r.fails(exitInterrupted, "Operation 1 (replay) is on record. It stopped after ")
		require.Contains(t, r.errs, "of 12,000 runs.\nTo go on: reprise replays resume 1. To take it back: reprise replays cancel 1.")
		require.Empty(t, r.out)

		require.Contains(t, db.reprise("replays", "show", "1").ok().out, "incomplete")
		o := db.reprise("replays", "resume", "1", "-o", "json").ok().operation()
		require.EqualValues(t, runs, o.Taken)
		require.True(t, o.Complete)
		require.Equal(t, "cancelled", string(db.reprise("replays", "cancel", "1", "-o", "json").ok().operation().State))
		require.Equal(t, "10000+\n", db.reprise("runs", "count", "--status", "FAILED").ok().out)
	})
}

func TestDiscardAndUndo(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		ids := db.failed("mail", 2)
		db.reprise("runs", "discard", "--handler", "mail", "--yes").fails(exitUsage, "--reason is missing")
		db.reprise("runs", "discard", "--reason", "x", "--yes").fails(exitUsage, "nothing is selected")
		db.reprise("runs", "discard", "--status", "SUCCESS", "--reason", "x", "--yes").fails(exitUsage, "discard runs of status SUCCESS")
		require.Contains(t, db.reprise("runs", "discard", "--handler", "mail", "--dry-run").ok().errs, "2 runs would be discarded.")
		db.reprise("runs", "discard", "--handler", "mail", "--reason", "test users").fails(exitUsage, "Discard 2 runs of mail (2)? There is no terminal")
		require.Equal(t, store.Failed, db.status(ids[0]))

		r := db.reprise("runs", "discard", "--handler", "mail", "--reason", "test users", "--yes").ok()
		require.Contains(t, r.out, "reprise replays undo 1")
		require.Equal(t, store.Discarded, db.status(ids[0]))
		db.reprise("replays", "pause", "1").fails(exitFailed, "operation 1 is of kind discard")
		undone := db.reprise("replays", "undo", "1", "--by", "paul", "--reason", "too many").ok()
		require.Contains(t, undone.errs, "2 runs taken back.")
		require.Regexp(t, `1 +undo +operation 1 +2 +paul .* too many`, undone.out)
		require.Regexp(t, `1 +undo +operation 1 +2 +paul .* too many`, db.reprise("actions", "list").ok().out)
		for _, list := range []string{"actions", "replays"} {
			db.reprise(list, "list", "--before", "-1").fails(exitUsage, "--before -1: want the number that the page before ended with")
			db.reprise(list, "list", "--limit", "1001").fails(exitUsage, "--limit 1001: want 1 to 1000")
		}
		require.Equal(t, store.Failed, db.status(ids[1]))

		db.reprise("runs", "replay", "--all", "--yes").ok()
		db.reprise("runs", "discard", "--handler", "mail", "--status", "PENDING", "--reason", "x", "--yes").ok()
		require.Equal(t, store.Discarded, db.status(ids[0]))
	})
}

func TestSteeringAReplay(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		ids := db.failed("mail", 2)
		db.reprise("runs", "replay", "--all", "--yes").ok()
		require.Contains(t, db.reprise("replays", "pause", "1").ok().out, "paused")
		require.Contains(t, db.reprise("runs", "list").ok().out, "PENDING (held)")
		var list wire.Runs
		db.reprise("runs", "list", "-o", "json").ok().json(&list)
		require.Equal(t, wire.Held, list.Runs[0].View)
		require.Nil(t, list.Runs[0].DueAt)
		db.reprise("replays", "resume", "1").ok()
		require.Contains(t, db.reprise("runs", "list").ok().out, "PENDING (due)")
		require.Contains(t, db.reprise("replays", "cancel", "1").ok().out, "cancelled")
		require.Equal(t, store.Failed, db.status(ids[0]))
		db.reprise("replays", "resume", "1").fails(exitFailed, "is cancelled, and stays so")
		db.reprise("replays", "undo", "1").fails(exitFailed, "is of kind replay")
		db.reprise("replays", "show", "4711").fails(exitNothing, "operation 4711: not found")
		db.reprise("replays", "show", "first").fails(exitUsage, `operation "first": want its number`)

		r := db.reprise("replays", "list").ok()
		require.Contains(t, r.out, "--status FAILED")
		db.reprise("runs", "replay", "--handler", "mail", "--payload", "user.id=1", "--yes").ok()
		r = db.reprise("replays", "list", "--limit", "1").ok()
		require.Contains(t, r.out, "--handler mail --payload user.id=1")
		require.Contains(t, r.errs, "--before 2")
		require.Contains(t, db.reprise("replays", "list", "--before", "2").ok().out, "cancelled")
	})
}

func TestBackfill(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.failed("mail", 3) // and their events
		db.reprise("backfill", "trial", "--yes").fails(exitFailed, `no subscription for handler "trial"`)
		db.subscribe("trial")
		require.Contains(t, db.reprise("backfill", "trial", "--dry-run").ok().out, "3 events of topic user.signed_up would get a run of trial")
		db.reprise("backfill", "trial").fails(exitUsage, "say --yes")
		db.reprise("backfill", "trial", "--until", "1h", "--yes").fails(exitNothing, "has a run for every event")
		db.reprise("replays", "list").fails(exitNothing, "")
		o := db.reprise("backfill", "trial", "--since", "1h", "--rate", "100/s", "--reason", "new", "--yes", "-o", "json").ok().operation()
		require.EqualValues(t, 3, o.Taken)
		require.Equal(t, "3\n", db.reprise("runs", "count", "--handler", "trial").ok().out)
		require.Contains(t, db.reprise("runs", "show", "4").ok().out, "backfill", "it says what made the run")
	})
}
