package storetest

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func replaying(promise promise) {
	promise("a failed run is due again and its attempts stay", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed := db.fail("1", "mail")
		attempts := db.attempts(failed.ID)
		again := db.operate(replay(store.Filter{IDs: []int64{failed.ID}}))
		require.EqualValues(t, 1, again.Taken)

		run := db.run(failed.ID)
		require.WithinDuration(t, time.Now(), run.DueAt, time.Minute)
		want := failed
		want.Status, want.FinishedAt, want.Instance, want.DueAt, want.ReplayID = store.Pending, time.Time{}, "", run.DueAt, again.ID
		want.Tries, want.Cycle = 0, 0 // fresh
		require.Equal(t, want, run, "the last error is in view until the run succeeds")
		require.Equal(t, attempts, db.attempts(failed.ID))

		db.register("a")
		lease := db.claimOne("a", "mail")
		require.Equal(t, queue.Lease{RunID: failed.ID, Instance: "a", Attempt: 2}, lease)
		db.end(queue.Outcome{Lease: lease, Status: store.Success})
		require.Equal(t, again.ID, db.run(failed.ID).ReplayID)
	})

	promise("the request is on record: who, when, why, what, how far", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.fail("1", "mail")
		db.fail("2", "mail")
		since := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
		first := replay(store.Filter{
			Handler: "mail", Topic: topic, Status: store.Failed, Since: since, Until: since.AddDate(100, 0, 0), Text: "broken",
			Payload: []store.Condition{{Path: []string{"order"}, Op: store.Unequal, Value: "3"}},
		})
		first.Rate = 1000
		asked, err := db.Request(ctx, first)
		require.NoError(t, err)
		require.Equal(t, store.Count{N: 2}, asked.Total)
		require.False(t, asked.Complete)
		read, err := db.Operation(ctx, asked.ID)
		require.NoError(t, err)
		require.Equal(t, asked, read)
		require.EqualValues(t, 2, db.progress(asked.ID).Left())

		done := db.takeAll(asked)
		require.EqualValues(t, 2, done.Taken)
		require.Equal(t, "ops", done.RequestedBy)
		require.WithinDuration(t, time.Now(), done.RequestedAt, time.Minute)
		nothing := db.operate(replay(store.Filter{EventID: "3"}))
		require.Zero(t, nothing.Taken)
		require.True(t, db.progress(nothing.ID).Over())
		require.Greater(t, nothing.ID, first.ID)

		all, err := db.Operations(ctx, 0, 0)
		require.NoError(t, err)
		require.Len(t, all, 2)
		require.Equal(t, first.Selection, all[1].Selection)
		older, err := db.Operations(ctx, nothing.ID, 1)
		require.NoError(t, err)
		require.Equal(t, all[1:], older)
		_, err = db.Operation(ctx, 4711)
		require.ErrorIs(t, err, store.ErrNotFound)
	})

	promise("a run knows the operations that took it up or made it", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed := db.fail("1", "mail")
		one := db.operate(replay(store.Filter{IDs: []int64{failed.ID}}))
		_, err := db.Cancel(ctx, one.ID, maria)
		require.NoError(t, err)
		edit, amended, err := db.Edit(ctx, failed.ID, store.Correction{Payload: []byte("{}")}, "ops", "")
		require.NoError(t, err)
		db.subscribe("audit")
		backfill, err := db.RequestBackfill(ctx, store.Operation{RequestedBy: "ops", Selection: store.Filter{Handler: "audit"}})
		require.NoError(t, err)
		db.takeAll(backfill)
		for run, want := range map[int64][]int64{
			failed.ID: {one.ID, edit.ID}, amended.ID: {edit.ID}, db.runs(store.Filter{Handler: "audit"})[0].ID: {backfill.ID}, 4711: nil,
		} {
			operations, err := db.OperationsOf(ctx, run)
			require.NoError(t, err)
			var ids []int64
			for _, o := range operations {
				ids = append(ids, o.ID)
			}
			require.Equal(t, want, ids)
		}
	})

	promise("only FAILED runs are touched", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed := db.fail("failed", "mail")
		discarded := db.fail("discarded", "mail")
		db.discard(discarded.ID)
		db.register("a")
		db.publish(events("done", "held")...)
		db.end(queue.Outcome{Lease: db.claimOne("a", "mail"), Status: store.Success})
		db.claimOne("a", "mail")
		db.publish(event("due"))
		before := db.runs(store.Filter{})

		require.EqualValues(t, 1, db.operate(replay(store.Filter{Handler: "mail"})).Taken)
		for _, was := range before {
			if was.ID == failed.ID {
				require.Equal(t, store.Pending, db.run(was.ID).Status)
			} else {
				require.Equal(t, was, db.run(was.ID))
			}
		}
	})

	promise("what was discarded, and what succeeded, only on request", func(t *testing.T, db db) {
		db.subscribe("mail")
		discarded := db.fail("discarded", "mail")
		db.discard(discarded.ID)
		db.register("a")
		db.publish(event("done"))
		done := db.claimOne("a", "mail").RunID
		db.end(queue.Outcome{Lease: queue.Lease{RunID: done, Instance: "a", Attempt: 1}, Status: store.Success})

		_, err := db.Request(ctx, replay(store.Filter{Status: store.Success}))
		require.ErrorContains(t, err, "--even-successful")
		_, err = db.Request(ctx, replay(store.Filter{Status: store.Pending}))
		require.ErrorContains(t, err, "replay runs of status PENDING: want FAILED")

		require.EqualValues(t, 1, db.operate(replay(store.Filter{Status: store.Discarded})).Taken)
		require.Equal(t, store.Pending, db.run(discarded.ID).Status)
		even := replay(store.Filter{Handler: "mail"})
		even.EvenSuccessful = true
		require.EqualValues(t, 1, db.operate(even).Taken)
		require.Equal(t, store.Pending, db.run(done).Status)
	})

	promise("a handler that nobody serves is refused by name, and with it everything", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.fail("1", "mail")
		orphan := event("2")
		orphan.Source = "kafka"
		for _, handler := range []string{"renamed", "gone"} {
			lease, err := db.record(orphan, handler, "a", false)
			require.NoError(t, err)
			db.end(queue.Outcome{Lease: lease, Status: store.Failed, Failure: failure("broken")})
		}
		before := db.runs(store.Filter{})
		_, err := db.Request(ctx, replay(store.Filter{Status: store.Failed}))
		require.ErrorContains(t, err, "no subscription for handler gone, renamed")
		require.Equal(t, before, db.runs(store.Filter{}))
		require.Empty(t, db.column(`SELECT requested_by FROM reprise.operations`))

		preview, err := db.Preview(ctx, replay(store.Filter{Status: store.Failed}))
		require.NoError(t, err)
		require.Equal(t, store.Count{N: 3}, preview.Total)
		for _, part := range preview.Parts {
			require.Equal(t, part.Handler == "mail", part.Subscribed)
			require.Zero(t, part.Gone)
		}
		db.exec(`DELETE FROM reprise.events WHERE id = '1'`)
		preview, err = db.Preview(ctx, replay(store.Filter{Handler: "mail"}))
		require.NoError(t, err)
		require.EqualValues(t, 1, preview.Parts[0].Gone)
		require.Equal(t, "broken", preview.Parts[0].Error)

		require.EqualValues(t, 1, db.operate(replay(store.Filter{Handler: "mail"})).Taken)
	})

	promise("a request that cannot be meant is refused", func(t *testing.T, db db) {
		for want, o := range map[string]store.Operation{
			"who asks for it":        {Kind: store.Replaying, Selection: store.Filter{Handler: "mail"}},
			"rate -1":                {Kind: store.Replaying, RequestedBy: "ops", Rate: -1},
			"rate 1e+07":             {Kind: store.Replaying, RequestedBy: "ops", Rate: 1e7},
			`operation "tidy": want`: {Kind: "tidy", RequestedBy: "ops"},
		} {
			_, err := db.Request(ctx, o)
			require.ErrorContains(t, err, want)
		}
		require.Empty(t, db.column(`SELECT requested_by FROM reprise.operations`))
	})

	promise("requests at once take each run up once", func(t *testing.T, db db) {
		db.subscribe("mail")
		for _, id := range []string{"1", "2", "3", "4", "5"} {
			db.fail(id, "mail")
		}
		var taken atomic.Int64
		atOnce(t, 6, func(int) error {
			o, err := db.Request(ctx, replay(store.Filter{Handler: "mail"}))
			for err == nil && !o.Complete {
				o, err = db.Take(ctx, o.ID)
			}
			taken.Add(o.Taken)
			return err
		})
		require.EqualValues(t, 5, taken.Load())
	})

	promise("runs are due one after the other, at the rate", func(t *testing.T, db db) {
		db.subscribe("mail")
		for i := range 5 {
			db.fail(fmt.Sprint(i), "mail")
		}
		o := replay(store.Filter{Handler: "mail"})
		o.Rate = 0.5
		o = db.operate(o)
		runs := db.runs(store.Filter{Replay: o.ID})
		for i, r := range runs[1:] {
			require.WithinDuration(t, r.DueAt.Add(2*time.Second), runs[i].DueAt, 2*time.Millisecond)
		}
		require.WithinDuration(t, time.Now(), runs[4].DueAt, time.Minute)
		later := replay(store.Filter{Replay: o.ID, Status: store.Failed})
		require.Zero(t, db.operate(later).Taken, "PENDING is nobody's to replay")
	})

	promise("progress says what became of the runs, and what arrived meanwhile", func(t *testing.T, db db) {
		db.subscribe("mail")
		for i := range 6 {
			db.fail(fmt.Sprint(i), "mail")
		}
		o := db.operate(replay(store.Filter{Handler: "mail"}))
		require.EqualValues(t, 6, db.progress(o.ID).Waiting)
		db.register("a")
		claimed := db.claim("a", "mail", 5)
		db.end(
			queue.Outcome{Lease: queue.LeaseOf(claimed[0].Run), Status: store.Success},
			queue.Outcome{Lease: queue.LeaseOf(claimed[1].Run), Status: store.Success},
			queue.Outcome{Lease: queue.LeaseOf(claimed[2].Run), Status: store.Failed, Failure: failure("broken")},
			queue.Outcome{Lease: queue.LeaseOf(claimed[3].Run), Status: store.Failed, Failure: failure("broken")},
		)
		db.operate(replay(store.Filter{IDs: []int64{claimed[3].Run.ID}}))
		p := db.progress(o.ID)
		require.Equal(t, []int64{2, 1, 0, 1, 1, 1}, []int64{p.Succeeded, p.Failed, p.Discarded, p.Running, p.Waiting, p.Elsewhere})
		require.EqualValues(t, 2, p.Left())
		require.False(t, p.Over())
		require.Zero(t, p.Arrived.N)

		db.publish(event("new"))
		due := db.claim("a", "mail", 3)
		for _, c := range due {
			db.end(queue.Outcome{Lease: queue.LeaseOf(c.Run), Status: store.Failed, Failure: failure("broken")})
		}
		db.end(queue.Outcome{Lease: queue.LeaseOf(claimed[4].Run), Status: store.Success})
		p = db.progress(o.ID)
		require.True(t, p.Over())
		require.EqualValues(t, 2, p.Arrived.N, "the new one, and that of the later replay")
	})
}

func controlling(promise promise) {
	// replayed asks for a replay of n runs that failed.
	replayed := func(db db, n int, rate float64) store.Operation {
		db.t.Helper()
		db.subscribe("mail")
		for i := range n {
			db.fail(fmt.Sprint(i), "mail")
		}
		db.register("a")
		o := replay(store.Filter{Handler: "mail"})
		o.Rate = rate
		return db.operate(o)
	}
	claim := func(db db, n int) []*queue.Claimed { db.t.Helper(); return db.claim("a", "mail", n) }

	promise("what waits of a paused replay is not claimed until it is resumed", func(t *testing.T, db db) {
		o := replayed(db, 3, 0)
		running := queue.LeaseOf(claim(db, 1)[0].Run)
		for range 2 {
			paused, err := db.Pause(ctx, o.ID, maria)
			require.NoError(t, err)
			require.Equal(t, store.Paused, paused.State)
		}
		require.Empty(t, claim(db, 3))
		for _, r := range db.runs(store.Filter{Replay: o.ID})[:2] {
			require.True(t, r.Held())
		}
		db.end(queue.Outcome{Lease: running, Status: store.Success})
		p := db.progress(o.ID)
		require.EqualValues(t, 2, p.Left())
		require.False(t, p.Over())

		for range 2 {
			resumed, err := db.Release(ctx, o.ID, maria)
			require.NoError(t, err)
			require.Equal(t, store.Running, resumed.State)
		}
		require.Len(t, claim(db, 3), 2)
	})

	promise("a paused replay takes up nothing, and is resumed at its rate", func(t *testing.T, db db) {
		db.subscribe("mail")
		for i := range 4 {
			db.fail(fmt.Sprint(i), "mail")
		}
		o := replay(store.Filter{Handler: "mail"})
		o.Rate = 1
		o, err := db.Request(ctx, o)
		require.NoError(t, err)
		_, err = db.Pause(ctx, o.ID, maria)
		require.NoError(t, err)
		still, err := db.Take(ctx, o.ID)
		require.NoError(t, err)
		require.Zero(t, still.Taken)
		require.EqualValues(t, 4, db.progress(o.ID).Left())

		_, err = db.Release(ctx, o.ID, maria)
		require.NoError(t, err)
		require.EqualValues(t, 4, db.takeAll(o).Taken)
		_, err = db.Pause(ctx, o.ID, maria)
		require.NoError(t, err)
		_, err = db.Release(ctx, o.ID, maria)
		require.NoError(t, err)
		runs := db.runs(store.Filter{Replay: o.ID})
		require.WithinDuration(t, time.Now(), runs[3].DueAt, time.Minute)
		require.WithinDuration(t, runs[3].DueAt.Add(3*time.Second), runs[0].DueAt, 5*time.Millisecond)
	})

	promise("a cancelled replay puts back what waits, as it stood", func(t *testing.T, db db) {
		db.subscribe("mail")
		var failed []store.Run
		for i := range 4 {
			failed = append(failed, db.fail(fmt.Sprint(i), "mail"))
		}
		db.register("a")
		o := db.operate(replay(store.Filter{Handler: "mail"}))
		claimed := claim(db, 2)
		db.end(queue.Outcome{Lease: queue.LeaseOf(claimed[0].Run), Status: store.Pending, Delay: time.Hour, Failure: failure("again")})

		for range 2 {
			cancelled, err := db.Cancel(ctx, o.ID, maria)
			require.NoError(t, err)
			require.Equal(t, store.Cancelled, cancelled.State)
		}
		require.Equal(t, failed[2:], []store.Run{db.run(failed[2].ID), db.run(failed[3].ID)})
		tried := db.run(failed[0].ID)
		require.Equal(t, store.Failed, tried.Status)
		require.Equal(t, "again", tried.Error)
		require.Equal(t, store.Pending, db.run(failed[1].ID).Status, "a handler has it")
		db.end(queue.Outcome{Lease: queue.LeaseOf(claimed[1].Run), Status: store.Success})
		p := db.progress(o.ID)
		require.True(t, p.Over())
		require.EqualValues(t, 2, p.Elsewhere)

		_, err := db.Release(ctx, o.ID, maria)
		require.ErrorContains(t, err, "is cancelled, and stays so")
		_, err = db.Cancel(ctx, 4711, maria)
		require.ErrorIs(t, err, store.ErrNotFound)
	})

	promise("a success that was to be replayed is a success again", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(event("1"))
		lease := db.claimOne("a", "mail")
		db.end(queue.Outcome{Lease: lease, Status: store.Success})
		was := db.run(lease.RunID)
		o := replay(store.Filter{Status: store.Success})
		o.EvenSuccessful = true
		o = db.operate(o)
		_, err := db.Cancel(ctx, o.ID, maria)
		require.NoError(t, err)
		require.Equal(t, was, db.run(lease.RunID))
	})
}
