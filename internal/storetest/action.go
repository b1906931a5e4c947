package storetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/store"
)

// maria asks for what the promises do.
var maria = store.By{Name: "maria", Reason: "a promise"}

// did is an action without what the database gives it.
func did(t *testing.T, a store.Action) store.Action {
	t.Helper()
	require.NotZero(t, a.ID)
	require.WithinDuration(t, time.Now(), a.At, time.Hour)
	a.ID, a.At, a.Before = 0, time.Time{}, time.Time{}
	return a
}

func acting(promise promise) {
	promise("who paused, resumed, cancelled and undid is on record, once, with what it came to", func(t *testing.T, db db) {
		db.subscribe("mail")
		for _, id := range []string{"1", "2", "3"} {
			db.fail(id, "mail")
		}
		o := db.operate(replay(store.Filter{Handler: "mail"}))
		paul := store.By{Name: "paul"}
		for _, act := range []func() error{
			func() error { _, err := db.Release(ctx, o.ID, maria); return err }, // it is not paused
			func() error { _, err := db.Pause(ctx, o.ID, maria); return err },
			func() error { _, err := db.Pause(ctx, o.ID, paul); return err }, // maria has
			func() error { _, err := db.Release(ctx, o.ID, paul); return err },
			func() error { _, err := db.Cancel(ctx, o.ID, maria); return err },
			func() error { _, err := db.Cancel(ctx, o.ID, paul); return err },
		} {
			require.NoError(t, act())
		}
		discarded := db.operate(discard(store.Filter{Handler: "mail"}))
		_, back, err := db.Undo(ctx, discarded.ID, maria)
		require.NoError(t, err)
		require.Equal(t, store.PutBack{Runs: 3}, back)

		on, err := db.ActionsOn(ctx, o.ID)
		require.NoError(t, err)
		require.Len(t, on, 3)
		require.Equal(t, store.Action{Kind: store.Pausing, Operation: o.ID, By: maria, Runs: 3}, did(t, on[0]))
		require.Equal(t, store.Action{Kind: store.Resuming, Operation: o.ID, By: paul, Runs: 3}, did(t, on[1]))
		require.Equal(t, store.Action{Kind: store.Cancelling, Operation: o.ID, By: maria, Runs: 3}, did(t, on[2]))
		all, err := db.Actions(ctx, 0, 2)
		require.NoError(t, err)
		require.Len(t, all, 2, "a page")
		require.Equal(t, store.Action{Kind: store.Undoing, Operation: discarded.ID, By: maria, Runs: 3}, did(t, all[0]))
		require.Equal(t, on[2], all[1])
		rest, err := db.Actions(ctx, all[1].ID, 0)
		require.NoError(t, err)
		require.Equal(t, []store.Action{on[1], on[0]}, rest)
	})

	promise("who removed a subscription is on record, and nothing is when there was none", func(t *testing.T, db db) {
		db.subscribe("mail")
		mail := store.Subscription{Topic: topic, Handler: "mail"}
		require.NoError(t, db.Unsubscribe(ctx, mail, maria))
		require.ErrorIs(t, db.Unsubscribe(ctx, mail, maria), store.ErrNotFound)
		all, err := db.Actions(ctx, 0, 0)
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, store.Action{Kind: store.Removing, Handler: "mail", Topic: topic, By: maria}, did(t, all[0]))
	})

	promise("nobody does anything without a name", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.fail("1", "mail")
		o, nobody := db.operate(discard(store.Filter{Handler: "mail"})), store.By{Name: " ", Reason: "who knows"}
		_, _, undo := db.Undo(ctx, o.ID, nobody)
		_, pause := db.Pause(ctx, o.ID, nobody)
		_, release := db.Release(ctx, o.ID, nobody)
		_, cancel := db.Cancel(ctx, o.ID, nobody)
		_, prune := db.Prune(ctx, store.Prune{Before: time.Now(), By: nobody}, nil)
		for _, err := range []error{undo, pause, release, cancel, prune, db.Unsubscribe(ctx, store.Subscription{Topic: topic, Handler: "mail"}, nobody)} {
			require.ErrorContains(t, err, "it does not say who asks for it: set By.Name")
		}
		all, err := db.Actions(ctx, 0, 0)
		require.NoError(t, err)
		require.Empty(t, all)
	})

	promise("a prune is on record when it deletes something, and one action a day for who prunes again and again", func(t *testing.T, db db) {
		db.subscribe("mail")
		hours := 0
		prune := func(by string, daily bool) {
			hours++
			_, err := db.Prune(ctx, store.Prune{Before: time.Now().Add(time.Duration(hours) * time.Hour), Failed: true, By: store.By{Name: by}, Daily: daily}, nil)
			require.NoError(t, err)
		}
		prune("maria", false)
		all, err := db.Actions(ctx, 0, 0)
		require.NoError(t, err)
		require.Empty(t, all, "there was nothing")
		for _, by := range []string{"retention", "maria", "retention", "maria"} {
			db.fail("of "+by, "mail")
			prune(by, by == "retention")
		}
		all, err = db.Actions(ctx, 0, 0)
		require.NoError(t, err)
		require.Len(t, all, 3)
		require.Equal(t, store.Action{Kind: store.Pruning, Failed: true, By: store.By{Name: "retention"}, Runs: 2, Events: 2}, did(t, all[2]))
		require.Equal(t, store.Action{Kind: store.Pruning, Failed: true, By: store.By{Name: "maria"}, Runs: 1, Events: 1}, did(t, all[1]))
		require.WithinDuration(t, time.Now().Add(4*time.Hour), all[2].Before, time.Minute, "the last of them")
		for _, p := range []store.Prune{{Failed: true, By: store.By{Name: "retention", Reason: "shorter"}}, {Failed: true, Discarded: true, By: store.By{Name: "retention"}}} {
			p.Before, p.Daily = time.Now().Add(time.Hour), true
			db.fail("of another retention", "mail")
			_, err := db.Prune(ctx, p, nil)
			require.NoError(t, err)
		}
		all, err = db.Actions(ctx, 0, 0)
		require.NoError(t, err)
		require.Len(t, all, 5, "another retention is another action")

		db.exec(`UPDATE reprise.actions SET at = $1`, ago(25*time.Hour))
		db.fail("tomorrow", "mail")
		prune("retention", true)
		all, err = db.Actions(ctx, 0, 0)
		require.NoError(t, err)
		require.Len(t, all, 6, "a day later")
	})

	promise("what was discarded stays as long as that can be undone, unless it is told; an undo then says what is gone", func(t *testing.T, db db) {
		db.subscribe("mail")
		kept, replayed, undone := db.fail("kept", "mail"), db.fail("replayed", "mail"), db.fail("undone", "mail")
		o := db.operate(discard(store.Filter{IDs: []int64{kept.ID, replayed.ID}}))
		again := db.operate(replay(store.Filter{IDs: []int64{replayed.ID}, Status: store.Discarded}))
		_, err := db.Cancel(ctx, again.ID, maria) // it is DISCARDED again, and no undo of the first discard takes it
		require.NoError(t, err)
		other := db.operate(discard(store.Filter{IDs: []int64{undone.ID}}))
		_, _, err = db.Undo(ctx, other.ID, maria)
		require.NoError(t, err)

		p := store.Prune{Before: time.Now().Add(time.Hour), By: maria}
		counted, err := db.Prune(ctx, store.Prune{Before: p.Before, DryRun: true}, nil)
		require.NoError(t, err)
		pruned, err := db.Prune(ctx, p, nil)
		require.NoError(t, err)
		require.Equal(t, store.Pruned{Events: 1, Runs: 1}, pruned)
		require.Equal(t, pruned, counted)
		require.Equal(t, store.Discarded, db.run(kept.ID).Status)
		require.Equal(t, store.Failed, db.run(undone.ID).Status)
		_, err = db.Run(ctx, replayed.ID)
		require.ErrorIs(t, err, store.ErrNotFound)

		p.Discarded = true
		pruned, err = db.Prune(ctx, p, nil)
		require.NoError(t, err)
		require.Equal(t, store.Pruned{Events: 1, Runs: 1}, pruned)
		_, back, err := db.Undo(ctx, o.ID, maria)
		require.NoError(t, err)
		require.Equal(t, store.PutBack{Gone: 2}, back)
	})
}
