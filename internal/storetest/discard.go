package storetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func discard(selection store.Filter) store.Operation {
	return store.Operation{Kind: store.Discarding, RequestedBy: "ops", Reason: "spam", Selection: selection}
}

func discarding(promise promise) {
	promise("a failed run is closed, and opened again by an undo", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed, other := db.fail("1", "mail"), db.fail("2", "mail")
		o := db.operate(discard(store.Filter{IDs: []int64{failed.ID}}))
		require.EqualValues(t, 1, o.Taken)
		run := db.run(failed.ID)
		require.Equal(t, store.Discarded, run.Status)
		require.Equal(t, failed.Error, run.Error)
		require.Equal(t, other, db.run(other.ID))

		undone, n, err := db.Undo(ctx, o.ID, maria)
		require.NoError(t, err)
		require.Equal(t, store.Undone, undone.State)
		require.Equal(t, store.PutBack{Runs: 1}, n)
		require.Equal(t, failed, db.run(failed.ID))
		_, n, err = db.Undo(ctx, o.ID, maria)
		require.NoError(t, err)
		require.Zero(t, n)
	})

	promise("what something else has happened to since is not opened again", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed, untouched := db.fail("1", "mail"), db.fail("2", "mail")
		o := db.operate(discard(store.Filter{Handler: "mail"}))
		again := db.operate(replay(store.Filter{IDs: []int64{failed.ID}, Status: store.Discarded}))
		_, err := db.Cancel(ctx, again.ID, maria)
		require.NoError(t, err)

		_, n, err := db.Undo(ctx, o.ID, maria)
		require.NoError(t, err)
		require.Equal(t, store.PutBack{Runs: 1, Later: 1}, n)
		require.Equal(t, store.Discarded, db.run(failed.ID).Status)
		require.Equal(t, untouched, db.run(untouched.ID))
		_, _, err = db.Undo(ctx, again.ID, maria)
		require.ErrorContains(t, err, "of kind replay: want one of [discard]")
	})

	promise("what waits is closed on request, and waits again after an undo", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(events("held", "waits")...)
		claimed := db.claim("a", "mail", 2)
		db.end(queue.Outcome{Lease: queue.LeaseOf(claimed[1].Run), Status: store.Pending, Delay: time.Hour, Failure: failure("later")})
		waits := db.run(claimed[1].Run.ID)

		require.Zero(t, db.operate(discard(store.Filter{Handler: "mail"})).Taken)
		o := db.operate(discard(store.Filter{Status: store.Pending}))
		require.EqualValues(t, 1, o.Taken)
		require.Equal(t, store.Discarded, db.run(waits.ID).Status)
		require.Equal(t, store.Pending, db.run(claimed[0].Run.ID).Status, "a handler has it")
		_, _, err := db.Undo(ctx, o.ID, maria)
		require.NoError(t, err)
		require.Equal(t, waits, db.run(waits.ID))

		_, err = db.Request(ctx, discard(store.Filter{Status: store.Success}))
		require.ErrorContains(t, err, "discard runs of status SUCCESS: want FAILED")
	})
}
