package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func ending(promise promise) {
	// leased makes n runs of one handler, leased to instance a.
	leased := func(db db, n int) []queue.Lease {
		db.t.Helper()
		db.subscribe("mail")
		db.register("a")
		batch := make([]store.Event, n)
		for i := range batch {
			batch[i] = event(fmt.Sprint(i))
		}
		db.publish(batch...)
		leases := make([]queue.Lease, 0, n)
		for _, c := range db.claim("a", "mail", n) {
			leases = append(leases, queue.LeaseOf(c.Run))
		}
		require.Len(db.t, leases, n)
		return leases
	}

	promise("SUCCESS leaves the run and no attempt", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		started := db.run(lease.RunID).StartedAt
		db.end(queue.Outcome{Lease: lease, Status: store.Success})

		run := db.run(lease.RunID)
		require.WithinDuration(t, time.Now(), run.FinishedAt, time.Minute)
		require.False(t, run.FinishedAt.Before(started))
		require.Equal(t, store.Run{
			ID: lease.RunID, EventID: "0", Topic: topic, Handler: "mail", Status: store.Success, Attempt: 1, Tries: 1,
			Key: "key of 0", Instance: "a", StartedAt: started, FinishedAt: run.FinishedAt, PublishedAt: db.event("0").PublishedAt,
		}, run)
		require.Empty(t, db.attempts(lease.RunID))
	})

	promise("FAILED keeps the attempt: kind, message, stack, instance, times", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: lease, Status: store.Failed, Failure: &store.Failure{
			Kind: store.KindPanic, Message: "nil map: \"ü\" 100%", Stack: "goroutine 1\n\tmain.go:7",
		}})

		run := db.run(lease.RunID)
		require.Equal(t, store.Failed, run.Status)
		require.Equal(t, store.KindPanic, run.ErrorKind)
		require.Equal(t, "nil map: \"ü\" 100%", run.Error)
		require.Equal(t, "a", run.Instance)
		attempts := db.attempts(run.ID)
		require.Len(t, attempts, 1)
		require.WithinDuration(t, run.FinishedAt, attempts[0].FinishedAt, time.Minute)
		require.False(t, attempts[0].FinishedAt.Before(run.StartedAt))
		require.Equal(t, store.Attempt{
			RunID: run.ID, Attempt: 1, Kind: store.KindPanic, Message: "nil map: \"ü\" 100%", Stack: "goroutine 1\n\tmain.go:7",
			Instance: "a", StartedAt: run.StartedAt, FinishedAt: attempts[0].FinishedAt,
		}, attempts[0])
	})

	promise("PENDING makes the run due again and keeps the attempt", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: lease, Status: store.Pending, Failure: failure("first")})
		run := db.run(lease.RunID)
		require.Equal(t, store.Pending, run.Status)
		require.Empty(t, run.Instance)
		require.Zero(t, run.FinishedAt)
		require.Equal(t, store.KindError, run.ErrorKind)
		require.Equal(t, "first", run.Error)

		db.exec(`UPDATE reprise.handler_runs SET started_at = $1`, ago(time.Hour))
		second := db.claimOne("a", "mail")
		require.WithinDuration(t, time.Now(), db.run(run.ID).StartedAt, time.Minute)
		require.Equal(t, queue.Lease{RunID: run.ID, Instance: "a", Attempt: 2}, second)
		db.end(queue.Outcome{Lease: second, Status: store.Failed, Failure: failure("second")})
		attempts := db.attempts(run.ID)
		require.Len(t, attempts, 2)
		require.Equal(t, "first", attempts[0].Message)
		require.Equal(t, 1, attempts[0].Attempt)
		require.Equal(t, "second", attempts[1].Message)
		require.Equal(t, 2, attempts[1].Attempt)
	})

	promise("PENDING without a failure keeps the last one in view and no attempt", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: lease, Status: store.Pending, Failure: failure("first")})
		db.end(queue.Outcome{Lease: db.claimOne("a", "mail"), Status: store.Pending})
		require.Equal(t, "first", db.run(lease.RunID).Error)
		require.Len(t, db.attempts(lease.RunID), 1)
	})

	promise("PENDING with a delay is due when that is over", func(t *testing.T, db db) {
		leases := leased(db, 2)
		soon := db.run(leases[1].RunID)
		db.end(
			queue.Outcome{Lease: leases[0], Status: store.Pending, Delay: 36*time.Hour + 250*time.Millisecond},
			queue.Outcome{Lease: leases[1], Status: store.Pending, Delay: 30 * time.Millisecond},
		)
		later := db.run(leases[0].RunID)
		require.WithinDuration(t, time.Now().Add(36*time.Hour), later.DueAt, time.Minute)

		require.Eventually(t, func() bool { return len(db.claim("a", "mail", 2)) > 0 }, 20*time.Second, 5*time.Millisecond)
		soonAgain := db.run(soon.ID)
		require.Equal(t, 2, soonAgain.Attempt)
		require.GreaterOrEqual(t, soonAgain.StartedAt.Sub(soon.StartedAt), 29*time.Millisecond)
		require.Equal(t, 1, db.run(later.ID).Attempt, "it is not due")
	})

	promise("a refunded attempt does not count", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: lease, Status: store.Pending, Refund: true})
		require.Zero(t, db.run(lease.RunID).Tries)
		require.Empty(t, db.attempts(lease.RunID))
		lease = db.claimOne("a", "mail")
		require.Equal(t, 2, lease.Attempt, "its number is never given twice")
		require.Equal(t, 1, db.run(lease.RunID).Tries)

		db.end(queue.Outcome{Lease: lease, Status: store.Pending, Refund: true, Failure: &store.Failure{Kind: store.KindInterrupted, Message: "shutdown"}})
		require.Zero(t, db.run(lease.RunID).Tries)
		attempts := db.attempts(lease.RunID)
		require.Len(t, attempts, 1, "what happened is kept")
		require.Equal(t, 2, attempts[0].Attempt)
	})

	promise("an end that gives a try back, told twice, does not end the next attempt", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		released := queue.Outcome{Lease: lease, Status: store.Pending, Refund: true}
		db.end(released)
		next := db.claimOne("a", "mail")
		lost, err := db.End(ctx, []queue.Outcome{released})
		require.NoError(t, err)
		require.Equal(t, []queue.Lease{lease}, lost)
		db.end(queue.Outcome{Lease: next, Status: store.Success})
	})

	promise("PENDING, told twice because the answer was lost, is no lost lease", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		again := queue.Outcome{Lease: lease, Status: store.Pending, Delay: time.Hour, Failure: failure("broken")}
		db.end(again)
		db.end(again)
		require.Len(t, db.attempts(lease.RunID), 1)
	})

	promise("a next cycle begins with no try, and what failed belongs to the last", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: lease, Status: store.Pending, Failure: failure("first")})
		lease = db.claimOne("a", "mail")
		require.Equal(t, 2, db.run(lease.RunID).Tries)
		db.end(queue.Outcome{Lease: lease, Status: store.Pending, NextCycle: true, Failure: failure("second")})
		run := db.run(lease.RunID)
		require.Equal(t, 1, run.Cycle)
		require.Zero(t, run.Tries)

		claimed := db.claim("a", "mail", 1)
		require.Len(t, claimed, 1)
		require.Equal(t, 1, claimed[0].Run.Cycle)
		require.Equal(t, 1, claimed[0].Run.Tries)
		require.Equal(t, 3, claimed[0].Run.Attempt)
		db.end(queue.Outcome{Lease: queue.LeaseOf(claimed[0].Run), Status: store.Failed, Failure: failure("third")})
		var cycles []int
		for _, a := range db.attempts(lease.RunID) {
			cycles = append(cycles, a.Cycle)
		}
		require.Equal(t, []int{0, 0, 1}, cycles)
	})

	promise("a callback's failure is kept beside the handler's, which the run shows", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		callback := &store.Failure{Kind: store.KindCallback, Message: "no pager", Stack: "stack of the callback"}
		db.end(queue.Outcome{Lease: lease, Status: store.Failed, Failure: store.NewFailure("mail", store.KindError, "broken"), Callback: callback})
		run := db.run(lease.RunID)
		require.Equal(t, "broken", run.Error)
		require.Equal(t, store.Fingerprint("mail", store.KindError, "broken"), run.Fingerprint)
		attempts := db.attempts(run.ID)
		require.Len(t, attempts, 2)
		require.Equal(t, store.KindError, attempts[0].Kind)
		require.Equal(t, store.KindCallback, attempts[1].Kind)
		require.Equal(t, "no pager", attempts[1].Message)
		require.Equal(t, "stack of the callback", attempts[1].Stack)
		require.Equal(t, 1, attempts[1].Attempt)
	})

	promise("a success in a caller's transaction stands and falls with it", func(t *testing.T, db db) {
		leases := leased(db, 2)
		for i, commit := range []bool{true, false} {
			tx, err := db.DB().BeginTxx(ctx, nil)
			require.NoError(t, err)
			require.NoError(t, db.Succeed(ctx, tx, leases[i]))
			if commit {
				require.NoError(t, tx.Commit())
			} else {
				require.NoError(t, tx.Rollback())
			}
		}
		require.Equal(t, store.Success, db.run(leases[0].RunID).Status)
		require.NotZero(t, db.run(leases[0].RunID).FinishedAt)
		require.Equal(t, store.Pending, db.run(leases[1].RunID).Status)
		db.end(queue.Outcome{Lease: leases[1], Status: store.Success})
	})

	promise("a success in a caller's transaction needs the lease", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: lease, Status: store.Pending})
		db.claimOne("a", "mail")
		tx, err := db.DB().BeginTxx(ctx, nil)
		require.NoError(t, err)
		require.ErrorIs(t, db.Succeed(ctx, tx, lease), store.ErrLeaseLost)
		require.NoError(t, tx.Rollback())
		require.Equal(t, store.Pending, db.run(lease.RunID).Status)
	})

	promise("success clears the error from the run, not from the record", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: lease, Status: store.Pending, Failure: failure("first")})
		db.end(queue.Outcome{Lease: db.claimOne("a", "mail"), Status: store.Success})
		run := db.run(lease.RunID)
		require.Empty(t, run.ErrorKind)
		require.Empty(t, run.Error)
		require.Len(t, db.attempts(run.ID), 1)
	})

	promise("a lease that does not hold ends nothing", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		before := db.run(lease.RunID)
		lost := func(l queue.Lease) {
			t.Helper()
			for _, o := range []queue.Outcome{
				{Lease: l, Status: store.Success},
				{Lease: l, Status: store.Failed, Failure: failure("late")},
				{Lease: l, Status: store.Pending, Delay: time.Hour, Refund: true, Failure: failure("late")},
			} {
				lost, err := db.End(ctx, []queue.Outcome{o})
				require.NoError(t, err)
				require.Equal(t, []queue.Lease{l}, lost)
			}
			require.Equal(t, before, db.run(lease.RunID))
			require.Empty(t, db.attempts(lease.RunID))
		}
		lost(queue.Lease{RunID: lease.RunID, Instance: "b", Attempt: 1})
		lost(queue.Lease{RunID: lease.RunID, Instance: "a", Attempt: 0})
		lost(queue.Lease{RunID: lease.RunID, Instance: "a", Attempt: 2})
		lost(queue.Lease{RunID: lease.RunID, Instance: "", Attempt: 1})
		lost(queue.Lease{RunID: lease.RunID + 1000, Instance: "a", Attempt: 1})

	})

	promise("an end is written once, also when it is told again", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: lease, Status: store.Success})
		before := db.run(lease.RunID)
		db.end(queue.Outcome{Lease: lease, Status: store.Success}) // its answer may have been lost
		lost, err := db.End(ctx, []queue.Outcome{{Lease: lease, Status: store.Failed, Failure: failure("late")}})
		require.NoError(t, err)
		require.Equal(t, []queue.Lease{lease}, lost)
		require.Equal(t, before, db.run(lease.RunID))
		require.Empty(t, db.attempts(lease.RunID))
	})

	promise("a run that is due again has no lease", func(t *testing.T, db db) {
		lease := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: lease, Status: store.Pending})
		lost, err := db.End(ctx, []queue.Outcome{{Lease: lease, Status: store.Success}})
		require.NoError(t, err)
		require.Equal(t, []queue.Lease{lease}, lost)
	})

	promise("each outcome of a batch counts for itself", func(t *testing.T, db db) {
		leases := leased(db, 5)
		stale := leases[3]
		stale.Instance = "b"
		lost, err := db.End(ctx, []queue.Outcome{
			{Lease: leases[0], Status: store.Success},
			{Lease: leases[1], Status: store.Failed, Failure: failure("broken")},
			{Lease: leases[2], Status: store.Pending, Delay: time.Hour, Failure: failure("later")},
			{Lease: stale, Status: store.Success},
			{Lease: leases[4], Status: store.Pending, Refund: true},
		})
		require.NoError(t, err)
		require.Equal(t, []queue.Lease{stale}, lost)

		for i, want := range []struct {
			status   store.Status
			tries    int
			message  string
			attempts int
		}{
			{store.Success, 1, "", 0},
			{store.Failed, 1, "broken", 1},
			{store.Pending, 1, "later", 1},
			{store.Pending, 1, "", 0},
			{store.Pending, 0, "", 0},
		} {
			run := db.run(leases[i].RunID)
			require.Equal(t, want.status, run.Status)
			require.Equal(t, want.tries, run.Tries)
			require.Equal(t, 1, run.Attempt)
			require.Equal(t, want.message, run.Error)
			require.Len(t, db.attempts(run.ID), want.attempts)
		}
		require.Equal(t, "a", db.run(leases[3].RunID).Instance)
	})

	promise("a stale lease is lost also beside the one that holds", func(t *testing.T, db db) {
		stale := leased(db, 1)[0]
		db.end(queue.Outcome{Lease: stale, Status: store.Pending})
		lease := db.claimOne("a", "mail")
		for _, batch := range [][]queue.Outcome{
			{{Lease: stale, Status: store.Success}, {Lease: lease, Status: store.Pending, Delay: time.Hour, Failure: failure("broken")}},
		} {
			lost, err := db.End(ctx, batch)
			require.NoError(t, err)
			require.Equal(t, []queue.Lease{stale}, lost)
		}
		require.Equal(t, "broken", db.run(lease.RunID).Error)
	})

	promise("hundreds of outcomes are one batch", func(t *testing.T, db db) {
		leases := leased(db, 300)
		outcomes := make([]queue.Outcome, len(leases))
		for i, l := range leases {
			outcomes[i] = queue.Outcome{Lease: l, Status: store.Success}
		}
		db.end(outcomes...)
		require.Equal(t, []string{"300"}, db.column(`SELECT count(*) FROM reprise.handler_runs WHERE status = 'SUCCESS'`))
	})

	promise("an outcome that makes no sense is refused, with its whole batch", func(t *testing.T, db db) {
		leases := leased(db, 2)
		for want, bad := range map[string]queue.Outcome{
			`status "DISCARDED": want SUCCESS, FAILED or PENDING`: {Status: store.Discarded},
			`status "": want SUCCESS`:                             {},
			"a failed run needs a Failure":                        {Status: store.Failed},
			"a successful run has no Failure":                     {Status: store.Success, Failure: failure("?")},
			"failure kind is empty":                               {Status: store.Pending, Failure: &store.Failure{Message: "?"}},
			`failure kind "\x00": want valid UTF-8`:               {Status: store.Failed, Failure: &store.Failure{Kind: "\x00"}},
		} {
			bad.Lease = leases[1]
			_, err := db.End(ctx, []queue.Outcome{{Lease: leases[0], Status: store.Success}, bad})
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, fmt.Sprintf("run %d, attempt 1, held by a", leases[1].RunID))
		}
		for _, l := range leases {
			require.Equal(t, "a", db.run(l.RunID).Instance)
			require.Equal(t, store.Pending, db.run(l.RunID).Status)
		}
	})

	promise("no outcomes, nothing to do", func(t *testing.T, db db) {
		lost, err := db.End(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, lost)
	})

	promise("whatever an error says can be stored and read", func(t *testing.T, db db) {
		leases := leased(db, 4)
		long := strings.Repeat("é", 1<<20)
		db.end(
			queue.Outcome{Lease: leases[0], Status: store.Failed, Failure: &store.Failure{Kind: store.KindPanic, Message: "a\x00b", Stack: "s\x00t"}},
			queue.Outcome{Lease: leases[1], Status: store.Failed, Failure: &store.Failure{Kind: store.KindError, Message: "a\xffb\xc3"}},
			queue.Outcome{Lease: leases[2], Status: store.Failed, Failure: &store.Failure{Kind: store.KindPanic, Message: long, Stack: long}},
			queue.Outcome{Lease: leases[3], Status: store.Failed, Failure: &store.Failure{Kind: store.KindError}},
		)
		for i, want := range []string{"a\ufffdb", "a\ufffdb\ufffd"} {
			require.Equal(t, want, db.run(leases[i].RunID).Error)
			require.Equal(t, want, db.attempts(leases[i].RunID)[0].Message)
		}
		require.Equal(t, "s\ufffdt", db.attempts(leases[0].RunID)[0].Stack)

		cut := db.attempts(leases[2].RunID)[0]
		require.Equal(t, cut.Message, db.run(leases[2].RunID).Error)
		for _, text := range []string{cut.Message, cut.Stack} {
			require.True(t, utf8.ValidString(text))
			require.True(t, strings.HasPrefix(text, "ééé"))
			require.True(t, strings.HasSuffix(text, "é… (cut)"))
			require.Less(t, len(text), 64<<10)
		}
		require.Greater(t, len(cut.Stack), len(cut.Message))
		require.Empty(t, db.run(leases[3].RunID).Error)
		require.Len(t, db.attempts(leases[3].RunID), 1)
	})

	promise("the statuses are words in the table", func(t *testing.T, db db) {
		leases := leased(db, 4)
		db.end(queue.Outcome{Lease: leases[0], Status: store.Success}, queue.Outcome{Lease: leases[1], Status: store.Failed, Failure: failure("broken")})
		db.discard(leases[2].RunID)
		require.Equal(t, []string{"SUCCESS", "FAILED", "DISCARDED", "PENDING"}, db.column(`SELECT status FROM reprise.handler_runs ORDER BY id`))
		for i, status := range []store.Status{store.Success, store.Failed, store.Discarded, store.Pending} {
			require.Equal(t, status, db.run(leases[i].RunID).Status)
		}
	})
}

// discard closes a run as an operator would.
func (d db) discard(run int64) {
	d.t.Helper()
	d.exec(`UPDATE reprise.handler_runs SET status = 'DISCARDED', due_at = NULL, finished_at = $1, failed_at = NULL, discarded_at = $1 WHERE id = $2`, ago(0), run)
}
