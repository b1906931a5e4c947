package storetest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func claiming(promise promise) {
	promise("a claim leases the run and brings its event along", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(event("1"))
		due := db.only(store.Filter{})

		claimed := db.claim("a", "mail", 10)
		stored, err := db.Event(ctx, topic, "1")
		require.NoError(t, err)
		leased := db.run(due.ID)
		require.Equal(t, []*queue.Claimed{{
			Run: store.Run{
				ID: due.ID, EventID: "1", Topic: topic, Handler: "mail", Status: store.Pending,
				Attempt: 1, Tries: 1, Key: stored.Key, Instance: "a", StartedAt: leased.StartedAt, PublishedAt: stored.PublishedAt,
			},
			Event: stored,
		}}, claimed)

		require.Equal(t, store.Pending, leased.Status)
		require.Equal(t, "a", leased.Instance)
		require.Equal(t, 1, leased.Attempt)
		require.Zero(t, leased.DueAt)
		require.WithinDuration(t, time.Now(), leased.StartedAt, time.Minute)
		require.Empty(t, db.claim("a", "mail", 10), "it is leased")
	})

	promise("the longest due are claimed first, at most as many as wanted", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(events("1", "2", "3", "4")...)
		for i, id := range []string{"2", "4", "1", "3"} {
			db.exec(`UPDATE reprise.handler_runs SET due_at = $1 WHERE event_id = $2`, ago(time.Hour-time.Duration(i)*time.Second), id)
		}
		require.ElementsMatch(t, []string{"2", "4"}, claimedEvents(db.claim("a", "mail", 2)))
		require.Equal(t, []string{"1"}, claimedEvents(db.claim("a", "mail", 1)))
		require.Equal(t, []string{"3"}, claimedEvents(db.claim("a", "mail", 2)))
	})

	promise("each handler on each topic gets its own, as many as it wants", func(t *testing.T, db db) {
		db.subscribe("mail", "stock", "audit")
		require.NoError(t, db.Subscribe(ctx, store.Subscription{Topic: "payments", Handler: "mail"}, ""))
		db.register("a")
		payment := event("payment")
		payment.Topic = "payments"
		db.publish(events("1", "2", "3")...)
		db.publish(payment)

		claimed, err := db.Claim(ctx, queue.Claimant{Instance: "a"}, []queue.Want{want(topic, "mail", 2), want(topic, "stock", 10), want("payments", "mail", 10), want("payments", "stock", 10), want(topic, "audit", 0)})
		require.NoError(t, err)
		got := map[string]int{}
		for _, c := range claimed {
			got[c.Event.Topic+" "+c.Run.Handler]++
		}
		require.Equal(t, map[string]int{"orders mail": 2, "orders stock": 3, "payments mail": 1}, got)
		require.Empty(t, db.runs(store.Filter{Handler: "audit", Status: store.Success}))
		require.Len(t, db.claim("a", "audit", 10), 3)
	})

	promise("what is not due yet is not claimed", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(event("1"))
		db.exec(`UPDATE reprise.handler_runs SET due_at = $1`, ago(-time.Hour))
		require.Empty(t, db.claim("a", "mail", 1))
		db.exec(`UPDATE reprise.handler_runs SET due_at = $1`, ago(time.Second))
		db.claimOne("a", "mail")
	})

	promise("an instance that is not registered gets nothing", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.publish(event("1"))
		require.Empty(t, db.claim("stranger", "mail", 1))
		require.Zero(t, db.only(store.Filter{}).Attempt)
		db.register("a")
		require.NoError(t, db.Deregister(ctx, "a"))
		require.Empty(t, db.claim("a", "mail", 1))
	})

	promise("nothing wanted, nothing claimed", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(event("1"))
		claimed, err := db.Claim(ctx, queue.Claimant{Instance: "a"}, nil)
		require.NoError(t, err)
		require.Empty(t, claimed)
	})

	promise("instances that claim at once share the backlog, and each run goes to one", func(t *testing.T, db db) {
		const runs, instances = 200, 8
		db.subscribe("mail", "stock")
		batch := make([]store.Event, runs/2)
		for i := range batch {
			batch[i] = event(fmt.Sprint(i))
		}
		db.publish(batch...)

		var (
			mu     sync.Mutex
			leases = map[int64]queue.Lease{}
		)
		for i := range instances {
			db.register(fmt.Sprint(i))
		}
		atOnce(t, instances, func(i int) error {
			for n := int64(0); ; n++ {
				claimed, err := db.Claim(ctx, queue.Claimant{Instance: fmt.Sprint(i), Claims: n}, []queue.Want{want(topic, "mail", 7), want(topic, "stock", 3)})
				if err != nil || len(claimed) == 0 {
					return err
				}
				mu.Lock()
				for _, c := range claimed {
					if other, twice := leases[queue.LeaseOf(c.Run).RunID]; twice {
						err = fmt.Errorf("claimed twice: %v and %v", other, queue.LeaseOf(c.Run))
					}
					leases[queue.LeaseOf(c.Run).RunID] = queue.LeaseOf(c.Run)
				}
				mu.Unlock()
				if err != nil {
					return err
				}
			}
		})
		require.Len(t, leases, runs)
		for _, r := range db.runs(store.Filter{Limit: store.MaxLimit}) {
			require.Equal(t, leases[r.ID], queue.Lease{RunID: r.ID, Instance: r.Instance, Attempt: 1})
			require.Equal(t, 1, r.Attempt)
		}
	})

	promise("a run whose event is gone is leased, and says so", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(events("1", "2")...)
		db.exec(`DELETE FROM reprise.events WHERE id = '1'`)
		claimed := db.claim("a", "mail", 2)
		require.Len(t, claimed, 2)
		require.Contains(t, claimed[0].Unusable, `event "1"`)
		require.Contains(t, claimed[0].Unusable, "no longer in the database")
		require.Equal(t, "1", claimed[0].Run.EventID)
		require.Empty(t, claimed[1].Unusable)
	})

	promise("a claim that was carried out before, or is out of date, leases nothing, and the heartbeat tells", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(events("1", "2")...)
		require.Len(t, db.claim("a", "mail", 1), 1)
		again, err := db.Claim(ctx, queue.Claimant{Instance: "a"}, []queue.Want{want(topic, "mail", 1)})
		require.NoError(t, err)
		require.Empty(t, again)
		pulse, err := db.Heartbeat(ctx, nil, "a", queue.HeartbeatReport{})
		require.NoError(t, err)
		require.EqualValues(t, 1, pulse.Claims)

		require.Len(t, db.claim("a", "mail", 1), 1)
		require.Empty(t, db.claim("a", "mail", 1), "nothing is due: it does not count")
		require.EqualValues(t, 2, db.claims("a"))
	})
}

func claimedEvents(claimed []*queue.Claimed) []string {
	ids := make([]string, len(claimed))
	for i, c := range claimed {
		ids[i] = c.Event.ID
	}
	return ids
}
