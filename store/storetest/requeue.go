package storetest

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/store"
)

func requeueing(promise promise) {
	requeue := func(db db, f store.Filter) store.Replay {
		db.t.Helper()
		replay, err := db.Requeue(ctx, store.Replay{RequestedBy: "ops", Reason: "mail server is back", Selection: f})
		require.NoError(db.t, err)
		return replay
	}

	promise("a failed run is due again and its attempts stay", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed := db.fail("1", "mail")
		attempts := db.attempts(failed.ID)
		replay := requeue(db, store.Filter{IDs: []int64{failed.ID}})
		require.EqualValues(t, 1, replay.Total)

		run := db.run(failed.ID)
		require.WithinDuration(t, time.Now(), run.DueAt, time.Minute)
		want := failed
		want.Status, want.FinishedAt, want.Instance, want.DueAt, want.ReplayID = store.Pending, time.Time{}, "", run.DueAt, replay.ID
		want.Tries, want.Cycle = 0, 0 // fresh
		require.Equal(t, want, run, "the last error is in view until the run succeeds")
		require.Equal(t, attempts, db.attempts(failed.ID))

		db.register("a")
		lease := db.claimOne("a", "mail")
		require.Equal(t, store.Lease{RunID: failed.ID, Instance: "a", Attempt: 2}, lease)
		db.end(store.Outcome{Lease: lease, Status: store.Success})
		require.Equal(t, replay.ID, db.run(failed.ID).ReplayID)
	})

	promise("the request is on record: who, when, why, what, how far", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.fail("1", "mail")
		db.fail("2", "mail")
		since := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
		first := requeue(db, store.Filter{Handler: "mail", Topic: topic, Status: store.Failed, Since: since, Until: since.AddDate(100, 0, 0), Before: 10, Limit: 1})
		require.EqualValues(t, 2, first.Total)
		require.Equal(t, "ops", first.RequestedBy)
		require.WithinDuration(t, time.Now(), first.RequestedAt, time.Minute)
		nothing := requeue(db, store.Filter{EventID: "3"})
		require.Zero(t, nothing.Total)
		require.Greater(t, nothing.ID, first.ID)

		require.Equal(t, []string{"ops mail server is back 2", "ops mail server is back 0"},
			db.column(`SELECT requested_by || ' ' || reason || ' ' || total FROM reprise.replays ORDER BY id`))
		selections := db.column(`SELECT selection FROM reprise.replays ORDER BY id`)
		require.JSONEq(t, `{"status":"FAILED","handler":"mail","topic":"orders","since":"2026-07-01T12:00:00Z","until":"2126-07-01T12:00:00Z"}`, selections[0])
		require.JSONEq(t, `{"event":"3"}`, selections[1])
	})

	promise("only FAILED runs are touched", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed := db.fail("failed", "mail")
		discarded := db.fail("discarded", "mail")
		db.discard(discarded.ID)
		db.register("a")
		db.publish(events("done", "held")...)
		db.end(store.Outcome{Lease: db.claimOne("a", "mail"), Status: store.Success})
		db.claimOne("a", "mail")
		db.publish(event("due"))
		before := db.runs(store.Filter{})

		require.EqualValues(t, 1, requeue(db, store.Filter{}).Total)
		for _, was := range before {
			if was.ID == failed.ID {
				require.Equal(t, store.Pending, db.run(was.ID).Status)
			} else {
				require.Equal(t, was, db.run(was.ID))
			}
		}
	})

	promise("only what the filter selects is touched", func(t *testing.T, db db) {
		db.subscribe("mail")
		selected, other := db.fail("1", "mail"), db.fail("2", "mail")
		require.EqualValues(t, 1, requeue(db, store.Filter{EventID: "1", Handler: "mail"}).Total)
		require.Equal(t, store.Pending, db.run(selected.ID).Status)
		require.Equal(t, other, db.run(other.ID))
	})

	promise("the page of the filter does not matter", func(t *testing.T, db db) {
		db.subscribe("mail")
		first := db.fail("1", "mail")
		db.fail("2", "mail")
		db.fail("3", "mail")
		require.EqualValues(t, 3, requeue(db, store.Filter{Handler: "mail", Before: first.ID, Limit: 1}).Total)
	})

	promise("a handler that nobody serves is refused by name, and with it everything", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.fail("1", "mail")
		orphan := event("2")
		orphan.Source = "kafka"
		for _, handler := range []string{"renamed", "gone"} {
			lease, err := db.record(orphan, handler, "a", false)
			require.NoError(t, err)
			db.end(store.Outcome{Lease: lease, Status: store.Failed, Failure: failure("broken")})
		}
		before := db.runs(store.Filter{})
		_, err := db.Requeue(ctx, store.Replay{RequestedBy: "ops", Selection: store.Filter{Status: store.Failed}})
		require.ErrorContains(t, err, "no subscription for handler gone, renamed")
		require.Equal(t, before, db.runs(store.Filter{}))
		require.Empty(t, db.column(`SELECT requested_by FROM reprise.replays`))

		require.EqualValues(t, 1, requeue(db, store.Filter{Handler: "mail"}).Total)
	})

	promise("another status than FAILED is refused", func(t *testing.T, db db) {
		for _, status := range []store.Status{store.Pending, store.Success, store.Discarded} {
			_, err := db.Requeue(ctx, store.Replay{RequestedBy: "ops", Selection: store.Filter{Status: status}})
			require.ErrorContains(t, err, "replay runs of status "+string(status)+": want FAILED")
		}
		require.Empty(t, db.column(`SELECT requested_by FROM reprise.replays`))
	})

	promise("requests at once take each run up once", func(t *testing.T, db db) {
		db.subscribe("mail")
		for _, id := range []string{"1", "2", "3", "4", "5"} {
			db.fail(id, "mail")
		}
		var total atomic.Int64
		atOnce(t, 6, func(int) error {
			replay, err := db.Requeue(ctx, store.Replay{RequestedBy: "ops", Selection: store.Filter{Handler: "mail"}})
			total.Add(replay.Total)
			return err
		})
		require.EqualValues(t, 5, total.Load())
	})
}
