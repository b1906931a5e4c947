package storetest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func recording(promise promise) {
	delivered := event("1")
	delivered.Source = "kafka"
	record := func(db db, instance string) queue.Lease {
		db.t.Helper()
		lease, err := db.record(delivered, "mail", instance, false)
		require.NoError(db.t, err)
		return lease
	}

	promise("event and leased run are there when Record returns", func(t *testing.T, db db) {
		lease := record(db, "a")
		run := db.run(lease.RunID)
		require.Equal(t, store.Run{
			ID: lease.RunID, EventID: "1", Topic: topic, Handler: "mail", Status: store.Pending, Attempt: 1, Tries: 1,
			Key: "key of 1", Instance: "a", StartedAt: run.StartedAt, PublishedAt: db.event("1").PublishedAt,
		}, run)
		require.Equal(t, queue.Lease{RunID: run.ID, Instance: "a", Attempt: 1}, lease)
		stored, err := db.Event(ctx, topic, "1")
		require.NoError(t, err)
		require.Equal(t, "kafka", stored.Source)
		db.end(queue.Outcome{Lease: lease, Status: store.Success})
	})

	promise("subscriptions get no run of what another transport delivered", func(t *testing.T, db db) {
		db.subscribe("mail", "stock")
		record(db, "a")
		require.Equal(t, "mail", db.only(store.Filter{}).Handler)
	})

	promise("each handler has a run of its own on the event", func(t *testing.T, db db) {
		first := record(db, "a")
		second, err := db.record(delivered, "stock", "a", false)
		require.NoError(t, err)
		require.NotEqual(t, first.RunID, second.RunID)
		require.Equal(t, 1, second.Attempt)
		require.Empty(t, db.attempts(first.RunID))
	})

	promise("the same id on another topic is another event", func(t *testing.T, db db) {
		first := record(db, "a")
		passedOn := delivered
		passedOn.Topic = "archive"
		second, err := db.record(passedOn, "mail", "a", false)
		require.NoError(t, err)
		require.NotEqual(t, first.RunID, second.RunID)
		require.Equal(t, "archive", db.run(second.RunID).Topic)
	})

	promise("another event under a known id has an id and a run of its own", func(t *testing.T, db db) {
		db.end(queue.Outcome{Lease: record(db, "a"), Status: store.Success})
		repeat, other := delivered, delivered
		repeat.Metadata = map[string]string{"retries": "1", "tenant": "b"}
		other.Payload = []byte(`"other"`)
		seen := map[string]bool{"1": true}
		for _, e := range []store.Event{repeat, other} {
			for attempt, handler := range []string{"mail", "mail", "audit"} {
				run, err := db.Record(ctx, e, handler, "a", false)
				require.NoError(t, err)
				require.Equal(t, attempt > 0, seen[run.EventID], "the same id each time")
				seen[run.EventID] = true
				stored := db.event(run.EventID)
				require.Equal(t, e.Payload, stored.Payload)
				require.Equal(t, e.Metadata["retries"], stored.Metadata["retries"])
				if e.Metadata != nil {
					require.Equal(t, "1", stored.Metadata[store.RepeatsMetadata])
				}
			}
		}
		traced := delivered
		traced.Metadata = map[string]string{store.TraceParentMetadata: "another trace"}
		_, err := db.Record(ctx, traced, "mail", "a", false)
		require.ErrorIs(t, err, store.ErrDone)
		repeat.Declared = true
		_, err = db.Record(ctx, repeat, "mail", "a", false)
		require.ErrorIs(t, err, store.ErrDone)
		run, err := db.Record(ctx, traced, "stock", "a", false)
		require.NoError(t, err)
		require.Equal(t, "1", run.EventID, "it is no other event for a handler that sees it first")
	})

	promise("a run is taken up again, whatever has become of it", func(t *testing.T, db db) {
		lease := record(db, "a")
		db.end(queue.Outcome{Lease: lease, Status: store.Success})
		run, err := db.RecordAgain(ctx, db.run(lease.RunID), "b")
		require.NoError(t, err)
		require.Equal(t, queue.Lease{RunID: lease.RunID, Instance: "b", Attempt: 2}, queue.LeaseOf(run))
		stored := db.run(run.ID)
		require.Equal(t, store.Pending, stored.Status)
		require.Equal(t, stored.StartedAt, run.StartedAt)
		require.Equal(t, stored.PublishedAt, run.PublishedAt)
		db.end(queue.Outcome{Lease: queue.LeaseOf(run), Status: store.Failed, Failure: failure("broken")})
		run, err = db.RecordAgain(ctx, run, "b")
		require.NoError(t, err)
		require.Equal(t, 3, run.Attempt)
		require.Equal(t, store.KindError, run.ErrorKind)
		require.Equal(t, "broken", run.Error)
		require.Equal(t, db.run(run.ID).Fingerprint, run.Fingerprint)
	})

	promise("redelivered after a failure, it is another attempt", func(t *testing.T, db db) {
		first := record(db, "a")
		db.end(queue.Outcome{Lease: first, Status: store.Failed, Failure: failure("broken")})
		db.exec(`UPDATE reprise.handler_runs SET started_at = $1`, ago(time.Hour))
		second := record(db, "b")
		require.Equal(t, queue.Lease{RunID: first.RunID, Instance: "b", Attempt: 2}, second)
		run := db.run(first.RunID)
		require.Equal(t, store.Pending, run.Status)
		require.Zero(t, run.FinishedAt)
		require.WithinDuration(t, time.Now(), run.StartedAt, time.Minute)
		require.Len(t, db.attempts(first.RunID), 1)
		db.end(queue.Outcome{Lease: second, Status: store.Success})
	})

	promise("redelivered after SUCCESS, it is ErrDone, unless again is asked for", func(t *testing.T, db db) {
		first := record(db, "a")
		db.end(queue.Outcome{Lease: first, Status: store.Success})
		before := db.run(first.RunID)
		_, err := db.record(delivered, "mail", "b", false)
		require.ErrorIs(t, err, store.ErrDone)
		require.Equal(t, before, db.run(first.RunID))

		second, err := db.record(delivered, "mail", "b", true)
		require.NoError(t, err)
		require.Equal(t, queue.Lease{RunID: first.RunID, Instance: "b", Attempt: 2}, second)
		require.Empty(t, db.attempts(first.RunID))
	})

	promise("redelivered after it was discarded, it is ErrDone", func(t *testing.T, db db) {
		lease := record(db, "a")
		db.discard(lease.RunID)
		before := db.run(lease.RunID)
		for _, again := range []bool{false, true} {
			_, err := db.record(delivered, "mail", "b", again)
			require.ErrorIs(t, err, store.ErrDone)
		}
		require.Equal(t, before, db.run(lease.RunID))
		require.Empty(t, db.attempts(lease.RunID))
	})

	promise("redelivered while somebody holds it, it is taken over", func(t *testing.T, db db) {
		first := record(db, "a")
		started := db.run(first.RunID).StartedAt
		second := record(db, "b")
		require.Equal(t, queue.Lease{RunID: first.RunID, Instance: "b", Attempt: 2}, second)
		attempts := db.attempts(first.RunID)
		require.Len(t, attempts, 1)
		require.Equal(t, store.KindAbandoned, attempts[0].Kind)
		require.Equal(t, 1, attempts[0].Attempt)
		require.Equal(t, "a", attempts[0].Instance)
		require.Equal(t, started, attempts[0].StartedAt)

		lost, err := db.End(ctx, []queue.Outcome{{Lease: first, Status: store.Success}})
		require.NoError(t, err)
		require.Equal(t, []queue.Lease{first}, lost)
		db.end(queue.Outcome{Lease: second, Status: store.Success})
	})

	promise("redelivered when it is due, it is taken up and nothing was abandoned", func(t *testing.T, db db) {
		first := record(db, "a")
		db.end(queue.Outcome{Lease: first, Status: store.Pending})
		require.Equal(t, 2, record(db, "a").Attempt)
		require.Zero(t, db.run(first.RunID).DueAt)
		require.Empty(t, db.attempts(first.RunID))
	})

	promise("what was published here and is delivered here is one run", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.publish(event("1"))
		lease := record(db, "a")
		require.Equal(t, lease.RunID, db.only(store.Filter{}).ID)
		stored, err := db.Event(ctx, topic, "1")
		require.NoError(t, err)
		require.Equal(t, store.SourcePublish, stored.Source)
	})

	promise("deliveries at once take turns, and what each abandons is kept", func(t *testing.T, db db) {
		const n = 6
		var (
			mu       sync.Mutex
			attempts []int
			run      int64
		)
		atOnce(t, n, func(i int) error {
			lease, err := db.record(delivered, "mail", fmt.Sprint(i), false)
			mu.Lock()
			defer mu.Unlock()
			attempts, run = append(attempts, lease.Attempt), lease.RunID
			return err
		})
		slices.Sort(attempts)
		require.Equal(t, []int{1, 2, 3, 4, 5, 6}, attempts)
		var abandoned []int
		for _, a := range db.attempts(run) {
			abandoned = append(abandoned, a.Attempt)
		}
		slices.Sort(abandoned)
		require.Equal(t, []int{1, 2, 3, 4, 5}, abandoned)
	})

	promise("an end and a redelivery at once: one of them wins", func(t *testing.T, db db) {
		lease := record(db, "a")
		var (
			second   queue.Lease
			recorded error
			lost     []queue.Lease
		)
		atOnce(t, 2, func(i int) (err error) {
			if i == 0 {
				second, recorded = db.record(delivered, "mail", "b", false)
				return nil
			}
			lost, err = db.End(ctx, []queue.Outcome{{Lease: lease, Status: store.Success}})
			return err
		})
		run, attempts := db.run(lease.RunID), db.attempts(lease.RunID)
		if len(lost) == 0 {
			require.ErrorIs(t, recorded, store.ErrDone)
			require.Equal(t, store.Success, run.Status)
			require.Empty(t, attempts)
			return
		}
		require.NoError(t, recorded)
		require.Equal(t, queue.Lease{RunID: run.ID, Instance: "b", Attempt: 2}, second)
		require.Equal(t, store.Pending, run.Status)
		require.Len(t, attempts, 1)
	})

	promise("a handler without a usable name is refused", func(t *testing.T, db db) {
		for want, handler := range map[string]string{"handler is empty": "", `handler "a\nb": want valid UTF-8`: "a\nb"} {
			_, err := db.record(delivered, handler, "a", false)
			require.ErrorContains(t, err, want)
		}
		_, err := db.Event(ctx, topic, "1")
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}
