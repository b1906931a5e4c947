package storetest

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func living(promise promise) {
	promise("an instance is legible in the table", func(t *testing.T, db db) {
		require.NoError(t, db.Register(ctx, store.Instance{ID: "h/7/1", Host: "h", PID: 7, Build: "v1", Handlers: []string{"mail", "stock"}}))
		require.NoError(t, db.Register(ctx, store.Instance{ID: "h/7/2", Host: "h", PID: 7}))
		require.Equal(t, []string{`h/7/1 h 7 v1 ["mail","stock"]`, `h/7/2 h 7  []`},
			db.column(`SELECT id || ' ' || host || ' ' || pid || ' ' || build || ' ' || handlers FROM reprise.instances ORDER BY id`))
	})

	promise("registering again is a heartbeat and says what is served now", func(t *testing.T, db db) {
		db.register("a")
		db.silence("a")
		require.NoError(t, db.Register(ctx, store.Instance{ID: "a", Host: "host", PID: 1, Handlers: []string{"mail"}}))
		require.Equal(t, []string{`["mail"]`}, db.column(`SELECT handlers FROM reprise.instances`))
		requireNobodyDead(t, db)
	})

	promise("a heartbeat keeps an instance alive", func(t *testing.T, db db) {
		db.register("a")
		db.silence("a")
		pulse, err := db.Heartbeat(ctx, nil, "a", queue.HeartbeatReport{})
		require.NoError(t, err)
		require.False(t, pulse.Others)
		requireNobodyDead(t, db)
	})

	promise("a heartbeat tells of others that are silent", func(t *testing.T, db db) {
		db.register("a", "b", "c")
		pulse, err := db.Heartbeat(ctx, nil, "a", queue.HeartbeatReport{})
		require.NoError(t, err)
		require.False(t, pulse.Others)
		db.silence("b")
		pulse, err = db.Heartbeat(ctx, nil, "a", queue.HeartbeatReport{})
		require.NoError(t, err)
		require.True(t, pulse.Others)
		require.NoError(t, db.Register(ctx, store.Instance{ID: "b", DeadAfter: 2 * time.Hour}))
		db.silence("b")
		pulse, err = db.Heartbeat(ctx, nil, "a", queue.HeartbeatReport{})
		require.NoError(t, err)
		require.False(t, pulse.Others, "it is silent for less than its own DeadAfter")
	})

	promise("who is not known has gone", func(t *testing.T, db db) {
		_, err := db.Heartbeat(ctx, nil, "a", queue.HeartbeatReport{})
		require.ErrorIs(t, err, queue.ErrInstanceGone)
		db.register("a")
		require.NoError(t, db.Deregister(ctx, "a"))
		_, err = db.Heartbeat(ctx, nil, "a", queue.HeartbeatReport{})
		require.ErrorIs(t, err, queue.ErrInstanceGone)
		require.NoError(t, db.Deregister(ctx, "a"), "it is idempotent")
	})

	promise("ids of instances are unique", func(t *testing.T, db db) {
		require.NotEqual(t, queue.NewInstanceID(), queue.NewInstanceID())
	})

	promise("the leases of an instance are known", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a", "b")
		db.publish(events("1", "2", "3", "4")...)
		ended, first, others, second := db.claimOne("a", "mail"), db.claimOne("a", "mail"), db.claimOne("b", "mail"), db.claimOne("a", "mail")
		db.end(queue.Outcome{Lease: ended, Status: store.Success})
		for instance, want := range map[string][]queue.Lease{"a": {first, second}, "b": {others}, "c": {}} {
			held, err := db.Held(ctx, instance)
			require.NoError(t, err)
			require.Equal(t, want, held)
		}
	})

	promise("shutting down costs no attempt", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a", "b")
		db.publish(events("1", "2")...)
		lease, others := db.claimOne("a", "mail"), db.claimOne("b", "mail")
		started := db.run(lease.RunID).StartedAt
		require.NoError(t, db.Deregister(ctx, "a"))

		run := db.run(lease.RunID)
		require.Equal(t, store.Pending, run.Status)
		require.Zero(t, run.Tries)
		require.Empty(t, run.Instance)
		require.Equal(t, store.KindInterrupted, run.ErrorKind)
		attempts := db.attempts(run.ID)
		require.Len(t, attempts, 1)
		require.Equal(t, store.KindInterrupted, attempts[0].Kind)
		require.Equal(t, "a", attempts[0].Instance)
		require.Equal(t, started, attempts[0].StartedAt)

		require.Equal(t, "b", db.run(others.RunID).Instance)
		lost, err := db.End(ctx, []queue.Outcome{{Lease: lease, Status: store.Success}})
		require.NoError(t, err)
		require.Equal(t, []queue.Lease{lease}, lost)
		require.Equal(t, queue.Lease{RunID: run.ID, Instance: "b", Attempt: 2}, db.claimOne("b", "mail"))
	})
}

func recovering(promise promise) {
	promise("the runs of a silent instance are due again, their attempts on record", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("dead", "alive")
		db.publish(event("1"))
		lease := db.claimOne("dead", "mail")
		started := db.run(lease.RunID).StartedAt
		db.silence("dead")
		dead, err := db.recover()
		require.NoError(t, err)
		require.Equal(t, []string{"dead"}, dead)

		run := db.run(lease.RunID)
		require.Equal(t, store.Pending, run.Status)
		require.Equal(t, 1, run.Attempt)
		require.Empty(t, run.Instance)
		require.Equal(t, store.KindAbandoned, run.ErrorKind)
		attempts := db.attempts(run.ID)
		require.Len(t, attempts, 1)
		require.NotEmpty(t, attempts[0].Message)
		require.Equal(t, store.Attempt{
			RunID: run.ID, Attempt: 1, Kind: store.KindAbandoned, Message: attempts[0].Message, Instance: "dead",
			StartedAt: started, FinishedAt: attempts[0].FinishedAt,
		}, attempts[0])
		require.Equal(t, queue.Lease{RunID: run.ID, Instance: "alive", Attempt: 2}, db.claimOne("alive", "mail"))
	})

	promise("a run whose change is refused keeps no other from being recovered", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("dead", "too", "alive")
		db.publish(events("1", "2", "3", "4", "5", "6", "7")...)
		runs := db.claim("dead", "mail", 6)
		require.Len(t, runs, 6)
		refused := runs[2].Run.ID
		db.claimOne("too", "mail")
		allow := db.refuse(`handler_runs`, `NEW.instance IS NULL AND NEW.event_id = '`+runs[2].Run.EventID+`'`)
		db.silence("dead")
		db.silence("too")
		for range 2 {
			dead, err := db.recover()
			require.ErrorContains(t, err, fmt.Sprintf("run %d", refused))
			require.NotContains(t, dead, "dead")
		}
		require.ErrorContains(t, db.Deregister(ctx, "dead"), fmt.Sprintf("run %d", refused))
		for _, c := range append(runs, db.claim("alive", "mail", 10)...) {
			require.Equal(t, map[bool]string{true: "dead", false: "alive"}[c.Run.ID == refused], db.run(c.Run.ID).Instance)
		}
		held, err := db.Held(ctx, "dead")
		require.NoError(t, err)
		require.Len(t, held, 1)
		_, err = db.Held(ctx, "too")
		require.NoError(t, err)

		allow()
		dead, err := db.recover()
		require.NoError(t, err)
		require.Equal(t, []string{"dead"}, dead)
		require.Equal(t, refused, db.claimOne("alive", "mail").RunID)
	})

	promise("who was found dead cannot end its runs, and learns of it", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("dead")
		db.publish(event("1"))
		lease := db.claimOne("dead", "mail")
		db.silence("dead")
		_, err := db.recover()
		require.NoError(t, err)

		lost, err := db.End(ctx, []queue.Outcome{{Lease: lease, Status: store.Success}})
		require.NoError(t, err)
		require.Equal(t, []queue.Lease{lease}, lost)
		_, err = db.Heartbeat(ctx, nil, "dead", queue.HeartbeatReport{})
		require.ErrorIs(t, err, queue.ErrInstanceGone)
		require.Empty(t, db.claim("dead", "mail", 1))

		db.register("dead")
		again := db.claimOne("dead", "mail")
		require.Equal(t, 2, again.Attempt)
		db.end(queue.Outcome{Lease: again, Status: store.Success})
	})

	promise("a live instance keeps its runs", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("dead", "alive")
		db.publish(events("1", "2")...)
		db.claimOne("dead", "mail")
		lease := db.claimOne("alive", "mail")
		db.silence("dead")
		dead, err := db.recover()
		require.NoError(t, err)
		require.Equal(t, []string{"dead"}, dead)
		require.Equal(t, "alive", db.run(lease.RunID).Instance)
		db.end(queue.Outcome{Lease: lease, Status: store.Success})
		requireNobodyDead(t, db)
	})

	// set makes an instance look so many seconds old.
	set := func(db db, instance string, interval, deadAfter, started, steady, beat time.Duration) {
		db.t.Helper()
		require.NoError(db.t, db.Register(ctx, store.Instance{ID: instance, HeartbeatInterval: interval, DeadAfter: deadAfter}))
		db.exec(`UPDATE reprise.instances SET started_at = $1, steady_since = $2, heartbeat_at = $3 WHERE id = $4`,
			ago(started), ago(steady), ago(beat), instance)
	}
	promise("an instance is judged by its own settings, and only by who was not held up itself", func(t *testing.T, db db) {
		const s = time.Second
		for name, c := range map[string]struct {
			interval, deadAfter, silent            time.Duration // of who is judged
			judgeInterval, judgeDeadAfter          time.Duration
			judgeStarted, judgeSteady, judgeSilent time.Duration
			dead                                   bool
		}{
			"equal, alive":                            {2 * s, 10 * s, 8 * s, 2 * s, 10 * s, time.Hour, time.Hour, s, false},
			"equal, dead":                             {2 * s, 10 * s, 12 * s, 2 * s, 10 * s, time.Hour, time.Hour, s, true},
			"the judge itself is silent":              {2 * s, 10 * s, 12 * s, 2 * s, 10 * s, time.Hour, time.Hour, 8 * s, false},
			"the judge was late a moment ago":         {2 * s, 10 * s, 12 * s, 2 * s, 10 * s, time.Hour, s, s, false},
			"the judge was late a full DeadAfter ago": {2 * s, 10 * s, 12 * s, 2 * s, 10 * s, time.Hour, 12 * s, s, true},
			"the judge is new":                        {2 * s, 10 * s, 12 * s, 2 * s, 10 * s, 3 * s, 3 * s, s, false},
			"slow, alive":                             {20 * s, 60 * s, 50 * s, 2 * s, 10 * s, time.Hour, time.Hour, s, false},
			"slow, dead":                              {20 * s, 60 * s, 70 * s, 2 * s, 10 * s, time.Hour, time.Hour, s, true},
			"slow, and the judge was late since":      {20 * s, 60 * s, 70 * s, 2 * s, 10 * s, time.Hour, 50 * s, s, false},
			"quick, dead":                             {s, 3 * s, 8 * s, 2 * s, 10 * s, time.Hour, time.Hour, s, true},
			"quick, may have stood still with a judge who has not noticed": {s, 3 * s, 5 * s, 2 * s, 10 * s, time.Hour, time.Hour, s, false},
			"from before the clock was set back":                           {2 * s, 10 * s, -time.Hour, 2 * s, 10 * s, time.Hour, 12 * s, s, true},
			"likewise, and the judge has noticed it a moment ago":          {2 * s, 10 * s, -time.Hour, 2 * s, 10 * s, time.Hour, s, s, false},
			"quick, by a slow judge who may have stood still as long":      {s, 3 * s, 20 * s, 20 * s, 60 * s, time.Hour, time.Hour, s, false},
		} {
			set(db, "judged", c.interval, c.deadAfter, time.Hour, time.Hour, c.silent)
			set(db, "judge", c.judgeInterval, c.judgeDeadAfter, c.judgeStarted, c.judgeSteady, c.judgeSilent)
			dead, err := db.Recover(ctx, "judge")
			require.NoError(t, err)
			require.Equal(t, c.dead, len(dead) == 1, name)
		}
	})

	promise("a late heartbeat is noticed, by the database's clock, and one in time is not", func(t *testing.T, db db) {
		steady := func() string {
			return db.column(`SELECT CASE WHEN steady_since > '2001-01-01' THEN 'late' ELSE 'steady' END FROM reprise.instances WHERE id = 'a'`)[0]
		}
		year2000 := time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
		for _, beat := range map[string]func(){
			"Heartbeat": func() { _, err := db.Heartbeat(ctx, nil, "a", queue.HeartbeatReport{}); require.NoError(t, err) },
			"Register":  func() { db.register("a") },
		} {
			set(db, "a", 2*time.Second, 10*time.Second, year2000, year2000, 4*time.Second)
			beat()
			require.Equal(t, "steady", steady())
			for _, silent := range []time.Duration{6 * time.Second, -time.Hour} { // or its clock was set back
				set(db, "a", 2*time.Second, 10*time.Second, year2000, year2000, silent)
				beat()
				require.Equal(t, "late", steady())
			}
		}
	})

	promise("a look tells when one subscription went and another came", func(t *testing.T, db db) {
		db.subscribe("mail", "stock")
		look := func() string {
			found, err := db.Survey(ctx)
			require.NoError(t, err)
			return found.Subscriptions
		}
		before := look()
		require.Equal(t, before, look())
		require.NoError(t, db.Unsubscribe(ctx, store.Subscription{Topic: topic, Handler: "mail"}, maria))
		db.subscribe("audit")
		db.exec(`UPDATE reprise.subscriptions SET since = (SELECT since FROM reprise.subscriptions WHERE handler = 'stock') WHERE handler = 'audit'`)
		require.NotEqual(t, before, look())
	})

	promise("an instance serves the topics that it names, and all of a handler where it names none", func(t *testing.T, db db) {
		mail, left, stock := store.Subscription{Topic: "orders", Handler: "mail"}, store.Subscription{Topic: "left", Handler: "mail"}, store.Subscription{Topic: "orders", Handler: "stock"}
		for _, sub := range []store.Subscription{mail, left, stock} {
			require.NoError(t, db.Subscribe(ctx, sub, ""))
		}
		served := func() map[store.Subscription]int {
			subscribed, err := db.Subscriptions(ctx)
			require.NoError(t, err)
			by := map[store.Subscription]int{}
			for _, s := range subscribed {
				by[s.Subscription] = s.Instances
			}
			return by
		}
		require.NoError(t, db.Register(ctx, store.Instance{ID: "new", Handlers: store.Serving([]store.Subscription{stock, mail})}))
		require.Equal(t, map[store.Subscription]int{mail: 1, left: 0, stock: 1}, served())
		require.NoError(t, db.Register(ctx, store.Instance{ID: "of an earlier version", Handlers: []string{"mail"}}))
		require.Equal(t, map[store.Subscription]int{mail: 2, left: 1, stock: 1}, served())
		instances, err := db.Instances(ctx)
		require.NoError(t, err)
		for _, in := range instances {
			require.Equal(t, map[string][]string{"new": {"mail", "stock"}, "of an earlier version": {"mail"}}[in.ID], in.Handlers)
		}
		_, err = db.Heartbeat(ctx, nil, "new", queue.HeartbeatReport{Handlers: store.Serving(nil)})
		require.NoError(t, err)
		require.Equal(t, map[store.Subscription]int{mail: 1, left: 1, stock: 0}, served())

		long := store.Subscription{Topic: strings.Repeat("t", 200), Handler: strings.Repeat("h", 200)}
		require.NoError(t, db.Subscribe(ctx, long, ""))
		_, err = db.Heartbeat(ctx, nil, "new", queue.HeartbeatReport{Handlers: store.Serving([]store.Subscription{long})})
		require.NoError(t, err)
		require.Equal(t, 1, served()[long], "however long the names are")
	})

	promise("an instance that cannot claim serves nobody, as soon as that has lasted for its DeadAfter", func(t *testing.T, db db) {
		beat := func(failing bool) store.InstanceState {
			_, err := db.Heartbeat(ctx, nil, "a", queue.HeartbeatReport{Failing: failing})
			require.NoError(t, err)
			instances, err := db.Instances(ctx)
			require.NoError(t, err)
			require.Len(t, instances, 1)
			return instances[0]
		}
		mail := store.Subscription{Topic: "orders", Handler: "mail"}
		require.NoError(t, db.Register(ctx, store.Instance{ID: "a", Handlers: store.Serving([]store.Subscription{mail})}))
		in := beat(true)
		require.True(t, in.Serves(mail))
		db.exec(`UPDATE reprise.instances SET failing_since = $1`, ago(time.Minute))
		in = beat(true)
		require.True(t, in.Alive())
		require.True(t, in.Stuck())
		require.False(t, in.Serves(mail))
		in = beat(false)
		require.False(t, in.Stuck())
		require.True(t, in.Serves(mail))
	})

	promise("what a dead instance had ended stays ended", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("dead")
		db.publish(events("1", "2", "3")...)
		done, broken, later := db.claimOne("dead", "mail"), db.claimOne("dead", "mail"), db.claimOne("dead", "mail")
		db.end(
			queue.Outcome{Lease: done, Status: store.Success},
			queue.Outcome{Lease: broken, Status: store.Failed, Failure: failure("broken")},
			queue.Outcome{Lease: later, Status: store.Pending, Delay: time.Hour},
		)
		before := db.runs(store.Filter{})
		db.silence("dead")
		_, err := db.recover()
		require.NoError(t, err)
		require.Equal(t, before, db.runs(store.Filter{}))
	})

	// working registers an instance that holds a new run, and has said that it
	// holds no older one.
	working := func(db db, instance string) queue.Lease {
		db.t.Helper()
		db.register(instance)
		db.publish(event("new"))
		lease := db.claimOne(instance, "mail")
		_, err := db.Heartbeat(ctx, nil, instance, queue.HeartbeatReport{Holding: &queue.Holding{Recent: lease.RunID}})
		require.NoError(db.t, err)
		return lease
	}
	requireRecovered := func(db db, runs ...int64) {
		db.t.Helper()
		_, err := db.recover()
		require.NoError(db.t, err)
		for _, id := range runs {
			run := db.run(id)
			require.Empty(db.t, run.Instance, "the run on event %s", run.EventID)
			require.Equal(db.t, store.KindAbandoned, run.ErrorKind)
		}
	}

	promise("a dead instance leaves none of its runs behind, however old", func(t *testing.T, db db) {
		db.subscribe("mail")
		old := db.fail("old", "mail")
		lease := working(db, "dead")
		db.operate(replay(store.Filter{IDs: []int64{old.ID}}))
		require.Equal(t, old.ID, db.claimOne("dead", "mail").RunID)
		db.silence("dead")
		requireRecovered(db, old.ID, lease.RunID)
	})

	promise("nor those that another transport delivered to it", func(t *testing.T, db db) {
		db.subscribe("mail")
		delivered := event("delivered")
		delivered.Source = "kafka"
		old, err := db.record(delivered, "mail", "another", false)
		require.NoError(t, err)
		lease := working(db, "dead")
		again, err := db.record(delivered, "mail", "dead", false)
		require.NoError(t, err)
		require.Equal(t, old.RunID, again.RunID)
		delivered.ID = "delivered later"
		later, err := db.record(delivered, "mail", "dead", false)
		require.NoError(t, err)
		db.silence("dead")
		requireRecovered(db, old.RunID, lease.RunID, later.RunID)
	})

	promise("hundreds of dead instances are recovered by one call", func(t *testing.T, db db) {
		const n = 230
		db.subscribe("mail")
		batch := make([]store.Event, n)
		instances := make([]string, n)
		for i := range n {
			batch[i], instances[i] = event(fmt.Sprint(i)), fmt.Sprint("dead ", i)
		}
		db.publish(batch...)
		db.register(instances...)
		for _, id := range instances {
			db.claimOne(id, "mail")
		}
		db.exec(`UPDATE reprise.instances SET heartbeat_at = $1`, ago(time.Hour))
		dead, err := db.recover()
		require.NoError(t, err)
		require.ElementsMatch(t, instances, dead)
		db.register("a")
		require.Len(t, db.claim("a", "mail", n), n)
	})

	promise("those who recover at once record one abandoned attempt", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("dead", "dead too")
		for i := range 20 {
			db.publish(event(fmt.Sprint(i)))
		}
		require.Len(t, db.claim("dead", "mail", 10), 10)
		require.Len(t, db.claim("dead too", "mail", 10), 10)
		db.silence("dead")
		db.silence("dead too")
		var found atomic.Int64
		atOnce(t, 8, func(int) error {
			dead, err := db.recover()
			found.Add(int64(len(dead)))
			return err
		})
		require.EqualValues(t, 2, found.Load(), "each dead instance is found by one")
		for _, r := range db.runs(store.Filter{}) {
			require.Empty(t, r.Instance)
			require.Equal(t, 1, r.Attempt)
			require.Len(t, db.attempts(r.ID), 1)
		}
	})

	promise("an end and a recovery at once: one of them wins", func(t *testing.T, db db) {
		const n = 12
		db.subscribe("mail")
		db.register("slow")
		for i := range n {
			db.publish(event(fmt.Sprint(i)))
		}
		claimed := db.claim("slow", "mail", n)
		require.Len(t, claimed, n)
		db.silence("slow")
		lost := make([]bool, n)
		atOnce(t, n+2, func(i int) error {
			if i >= n {
				_, err := db.recover()
				return err
			}
			leases, err := db.End(ctx, []queue.Outcome{{Lease: queue.LeaseOf(claimed[i].Run), Status: store.Success}})
			lost[i] = len(leases) > 0
			return err
		})
		for i, c := range claimed {
			run, attempts := db.run(queue.LeaseOf(c.Run).RunID), db.attempts(queue.LeaseOf(c.Run).RunID)
			if lost[i] {
				require.Equal(t, store.Pending, run.Status)
				require.Empty(t, run.Instance)
				require.Len(t, attempts, 1)
			} else {
				require.Equal(t, store.Success, run.Status)
				require.Empty(t, attempts)
			}
		}
	})
}

func requireNobodyDead(t *testing.T, db db) {
	t.Helper()
	dead, err := db.recover()
	require.NoError(t, err)
	require.Empty(t, dead)
}
