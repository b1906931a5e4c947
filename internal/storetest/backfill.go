package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func backfilling(promise promise) {
	request := func(db db, selection store.Filter) store.Operation {
		db.t.Helper()
		o, err := db.RequestBackfill(ctx, store.Operation{RequestedBy: "ops", Selection: selection})
		require.NoError(db.t, err)
		return o
	}

	promise("a new handler gets the past events of its topic, the oldest first", func(t *testing.T, db db) {
		db.subscribe("mail")
		for i := range 3 {
			db.publish(event(fmt.Sprint(i)))
		}
		elsewhere := event("elsewhere")
		elsewhere.Topic = "invoices"
		db.publish(elsewhere)
		db.subscribe("audit")
		db.publish(event("3"))

		preview, err := db.PreviewBackfill(ctx, store.Operation{RequestedBy: "ops", Selection: store.Filter{Handler: "audit"}})
		require.NoError(t, err)
		require.Equal(t, store.Count{N: 3}, preview.Total)
		require.Empty(t, db.column(`SELECT requested_by FROM reprise.operations`))
		o := request(db, store.Filter{Handler: "audit"})
		require.Equal(t, topic, o.Selection.Topic)
		require.EqualValues(t, 3, o.Total.N)
		o = db.takeAll(o)
		require.EqualValues(t, 3, o.Taken)
		db.register("a")
		var got []string
		for _, c := range db.claim("a", "audit", 10) {
			got = append(got, c.Event.ID)
		}
		require.ElementsMatch(t, []string{"0", "1", "2", "3"}, got)
		runs := db.runs(store.Filter{Replay: o.ID})
		require.Equal(t, []string{"2", "1", "0"}, []string{runs[0].EventID, runs[1].EventID, runs[2].EventID})
		require.Equal(t, db.event("0").PublishedAt, runs[2].PublishedAt)
		require.Zero(t, db.takeAll(request(db, store.Filter{Handler: "audit"})).Taken, "again it creates nothing")
		require.EqualValues(t, 3, db.progress(o.ID).Running)
	})

	promise("a window bounds it, its end not included", func(t *testing.T, db db) {
		for i := range 4 {
			db.publish(event(fmt.Sprint(i)))
			db.exec(`UPDATE reprise.events SET published_at = $1 WHERE id = $2`, ago(time.Duration(10-i)*time.Hour), fmt.Sprint(i))
		}
		db.subscribe("audit")
		since, until := db.event("1").PublishedAt, db.event("3").PublishedAt
		o := db.takeAll(request(db, store.Filter{Handler: "audit", Topic: topic, Since: since, Until: until}))
		runs := db.runs(store.Filter{Replay: o.ID})
		require.Len(t, runs, 2)
		require.Equal(t, "1", runs[1].EventID)
		require.Len(t, db.runs(store.Filter{Since: since, Until: until}), 2, "a run knows when its event was published")
	})

	promise("what is cancelled before it ran is no more", func(t *testing.T, db db) {
		db.publish(events("0", "1", "2")...)
		db.subscribe("audit")
		o := db.takeAll(request(db, store.Filter{Handler: "audit"}))
		db.register("a")
		claimed := db.claim("a", "audit", 2)
		db.end(queue.Outcome{Lease: queue.LeaseOf(claimed[0].Run), Status: store.Pending, Delay: time.Hour, Failure: failure("later")})
		_, err := db.Cancel(ctx, o.ID, maria)
		require.NoError(t, err)
		runs := db.runs(store.Filter{})
		require.Len(t, runs, 2)
		require.Equal(t, store.Pending, db.run(claimed[1].Run.ID).Status)
		require.Equal(t, store.Failed, db.run(claimed[0].Run.ID).Status)
	})

	promise("what was discarded, taken back and then cancelled leaves nothing behind", func(t *testing.T, db db) {
		db.publish(events("0", "1")...)
		db.subscribe("audit")
		o := db.takeAll(request(db, store.Filter{Handler: "audit"}))
		discard, err := db.Request(ctx, store.Operation{Kind: store.Discarding, RequestedBy: "ops", Selection: store.Filter{Status: store.Pending}})
		require.NoError(t, err)
		db.takeAll(discard)
		_, undone, err := db.Undo(ctx, discard.ID, maria)
		require.NoError(t, err)
		require.EqualValues(t, 2, undone.Runs)
		_, err = db.Cancel(ctx, o.ID, maria)
		require.NoError(t, err)
		require.Empty(t, db.runs(store.Filter{}))
		require.Empty(t, db.column(`SELECT operation_id FROM reprise.operation_runs`))
	})

	promise("a backfill of nothing that there is, is refused", func(t *testing.T, db db) {
		db.subscribe("mail")
		require.NoError(t, db.Subscribe(ctx, store.Subscription{Topic: "invoices", Handler: "mail"}, ""))
		for want, f := range map[string]store.Filter{
			"the handler is not named":      {Topic: topic},
			`no subscription for handler "`: {Handler: "nobody"},
			"say which":                     {Handler: "mail"},
			`has no subscription to topic`:  {Handler: "mail", Topic: "payments"},
			"Since and Until only":          {Handler: "mail", Topic: topic, Key: "1"},
		} {
			_, err := db.RequestBackfill(ctx, store.Operation{RequestedBy: "ops", Selection: f})
			require.ErrorContains(t, err, want)
		}
	})
}

func pruning(promise promise) {
	promise("an event goes with its runs when all of them ended long ago", func(t *testing.T, db db) {
		db.subscribe("mail", "audit")
		db.register("a")
		db.publish(events("done", "failed", "open", "late")...)
		for _, handler := range []string{"mail", "audit"} {
			for _, c := range db.claim("a", handler, 4) {
				o := queue.Outcome{Lease: queue.LeaseOf(c.Run), Status: store.Success}
				switch {
				case handler == "audit" && c.Event.ID == "failed":
					o.Status, o.Failure = store.Failed, failure("broken")
				case handler == "audit" && c.Event.ID == "open":
					continue
				}
				db.end(o)
			}
		}
		db.exec(`UPDATE reprise.events SET published_at = $1`, ago(3*time.Hour))
		db.exec(`UPDATE reprise.handler_runs SET finished_at = $1 WHERE status = 'SUCCESS' AND event_id <> 'late'`, ago(2*time.Hour))
		db.exec(`UPDATE reprise.handler_runs SET finished_at = $1, failed_at = $1 WHERE status = 'FAILED' AND event_id <> 'late'`, ago(2*time.Hour))
		prune := func(p store.Prune) store.Pruned {
			dry := p
			dry.DryRun = true
			counted, next, err := db.PruneBatch(ctx, dry, nil)
			require.NoError(t, err)
			require.Nil(t, next)
			deleted, next, err := db.PruneBatch(ctx, p, nil)
			require.Equal(t, deleted, counted, "a dry run counts what would go, and leaves it")
			require.NoError(t, err)
			require.Nil(t, next)
			return deleted
		}
		left := func() []string { return db.column(`SELECT id FROM reprise.events ORDER BY id`) }
		before := time.Now().Add(-time.Hour)

		require.Equal(t, store.Pruned{}, prune(store.Prune{Before: time.Now().Add(-4 * time.Hour), Failed: true, By: maria}))
		require.Equal(t, store.Pruned{Events: 1, Runs: 2}, prune(store.Prune{Before: before, By: maria}))
		require.Equal(t, []string{"failed", "late", "open"}, left())
		require.Equal(t, store.Pruned{Events: 1, Runs: 2}, prune(store.Prune{Before: before, Failed: true, By: maria}))
		require.Equal(t, []string{"late", "open"}, left())
		require.Len(t, db.runs(store.Filter{}), 4)
		require.Empty(t, db.column(`SELECT kind FROM reprise.run_attempts`))
		_, _, err := db.PruneBatch(ctx, store.Prune{}, nil)
		require.ErrorContains(t, err, "the time is not set")
	})

	promise("batch after batch gets to the end", func(t *testing.T, db db) {
		var all []store.Event
		for i := range 4100 {
			all = append(all, event(fmt.Sprint(i)))
		}
		for len(all) > 0 {
			n := min(len(all), 1000)
			db.publish(all[:n]...)
			all = all[n:]
		}
		db.exec(`UPDATE reprise.events SET published_at = $1`, ago(time.Hour))
		var sum int64
		batches := 0
		for mark := (*store.EventMark)(nil); batches == 0 || mark != nil; batches++ {
			deleted, next, err := db.PruneBatch(ctx, store.Prune{Before: time.Now(), By: maria}, mark)
			require.NoError(t, err)
			sum += deleted.Events
			mark = next
		}
		require.EqualValues(t, 4100, sum)
		require.Equal(t, 5, batches)
	})
}
