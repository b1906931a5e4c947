package pubsub_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// keepBusy has n statements of the application, on its pool, wait for what another
// session has locked, such as a report that takes long, until release.
func keepBusy(t *testing.T, pool *sqlx.DB, address string, n int) (release func()) {
	t.Helper()
	gate := testdb.Open(t, address)
	tx, err := gate.Begin()
	require.NoError(t, err)
	_, err = tx.Exec(`SELECT pg_advisory_xact_lock(1)`)
	require.NoError(t, err)
	ended := make(chan error, n)
	for range n {
		go func() {
			_, err := pool.ExecContext(context.Background(), `SELECT pg_advisory_xact_lock_shared(1)`)
			ended <- err
		}()
	}
	require.Eventually(t, func() bool {
		var waiting int
		require.NoError(t, tx.QueryRow(`
			SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&waiting))
		return waiting == n
	}, patience, time.Millisecond)
	return func() {
		t.Helper()
		require.NoError(t, tx.Rollback())
		for range n {
			require.NoError(t, <-ended)
		}
	}
}

// requireBeats waits until an instance has beaten so often.
func requireBeats(t *testing.T, st *store.Store, n int) {
	t.Helper()
	last, beats := "", 0
	require.Eventually(t, func() bool {
		var at string
		require.NoError(t, st.DB().Get(&at, `SELECT coalesce(CAST(max(heartbeat_at) AS text), '') FROM `+testkit.Table(st, "instances")))
		if at != last {
			last, beats = at, beats+1
		}
		return beats > n
	}, patience, time.Millisecond, "%d of %d heartbeats", beats, n)
}

var quickly = pubsub.Config{PollInterval: 20 * time.Millisecond, HeartbeatInterval: 50 * time.Millisecond, DeadAfter: 2 * time.Second}

// Statements of the application that take long, on connections where statements of
// Reprise were prepared, hold up neither publishing nor heartbeats, also when the
// statements have to be prepared anew.
func TestASlowStatementOfTheApplicationHoldsUpNothing(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	st, watch := testkit.OpenStore(t, address), testkit.OpenStore(t, address)
	st.DB().SetMaxIdleConns(20)
	ps := configured(t, st, quickly)
	messages := subscribe(t, ps, "topic", "handler")
	go func() {
		for msg := range messages {
			msg.Ack()
		}
	}()
	publishConcurrently(t, ps, 8, 20) // every statement is prepared on several connections
	testkit.WaitForStatus(t, st, "handler", store.Success, 160)

	release := keepBusy(t, st.DB(), address, st.DB().Stats().OpenConnections)
	var before int64
	require.NoError(t, watch.DB().Get(&before, `SELECT max(id) FROM reprise.handler_runs`))
	for highest := before; highest < 5*before; {
		published := make(chan error, 1)
		go func() { published <- ps.Publisher().Publish("topic", newMessage("x")) }()
		require.NoError(t, testkit.Receive(t, published))
		require.NoError(t, watch.DB().Get(&highest, `SELECT max(id) FROM reprise.handler_runs`))
	}
	requireBeats(t, watch, 5)
	release()
	testkit.WaitForStatus(t, st, "handler", store.Success, int(5*before))
}

// When the application has taken all connections of its pool, the process still says
// that it is alive.
func TestAnExhaustedPoolDoesNotSilenceAProcess(t *testing.T) {
	t.Parallel()
	const most = 6
	address := testdb.Postgres(t)
	st, watch := testkit.OpenStore(t, address), testkit.OpenStore(t, address)
	st.DB().SetMaxOpenConns(most)
	ps := configured(t, st, quickly)
	messages := subscribe(t, ps, "topic", "handler")
	requireBeats(t, watch, 2)
	require.Eventually(t, func() bool { return st.DB().Stats().InUse <= 1 }, patience, time.Millisecond)

	release := keepBusy(t, st.DB(), address, most-1) // and one is the heartbeat's
	require.Equal(t, most, st.DB().Stats().InUse)
	requireBeats(t, watch, 5)
	release()
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 1)
}

// Somebody locks the table of runs: a claim waits for that, and the process goes on
// to say that it is alive, and says that it cannot claim.
func TestALockedTableDoesNotSilenceAProcess(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	st, watch := testkit.OpenStore(t, address), testkit.OpenStore(t, address)
	log := &logged{to: slog.NewTextHandler(t.Output(), nil)}
	config := quickly
	config.DeadAfter, config.Logger = 200*time.Millisecond, slog.New(log)
	ps := configured(t, st, config)
	messages := subscribe(t, ps, "topic", "handler")
	requireBeats(t, watch, 2)
	serving := func() bool {
		instances, err := watch.Instances(t.Context())
		require.NoError(t, err)
		require.Len(t, instances, 1)
		return instances[0].Serves(store.Subscription{Topic: "topic", Handler: "handler"})
	}
	require.Eventually(t, serving, patience, time.Millisecond)

	lock, err := watch.DB().Beginx()
	require.NoError(t, err)
	lock.MustExec(`LOCK TABLE reprise.handler_runs IN ACCESS EXCLUSIVE MODE`)
	require.Eventually(t, func() bool {
		var waits bool
		require.NoError(t, watch.DB().Get(&waits, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation' AND query LIKE '%SKIP LOCKED%')`))
		return waits
	}, patience, time.Millisecond)
	requireBeats(t, watch, 10)
	require.Eventually(t, func() bool { return !serving() }, patience, time.Millisecond, "it does not look healthy")
	requireBeats(t, watch, 2)
	log.requireOnce(t, "this process has not been able to claim", "due runs")
	require.NoError(t, lock.Rollback())
	require.Eventually(t, serving, patience, time.Millisecond)
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 1)
}

// The server has lost every prepared statement, as after DISCARD ALL by a pooler, or
// a table was altered: what is prepared is prepared anew, and nothing fails.
func TestLostStatementsArePreparedAnew(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, st *store.Store){
		"discarded": func(t *testing.T, st *store.Store) {
			for range st.DB().Stats().OpenConnections {
				conn, err := st.DB().Conn(t.Context())
				require.NoError(t, err)
				defer conn.Close() // when all have been had
				_, err = conn.ExecContext(t.Context(), `DISCARD ALL`)
				require.NoError(t, err)
			}
		},
		"altered": func(_ *testing.T, st *store.Store) {
			st.DB().MustExec(`ALTER TABLE reprise.events ALTER COLUMN key TYPE varchar(2000), ALTER COLUMN source TYPE varchar(200)`)
			st.DB().MustExec(`ALTER TABLE reprise.handler_runs ALTER COLUMN handler TYPE varchar(500), ALTER COLUMN event_id TYPE varchar(500)`)
			st.DB().MustExec(`ALTER TABLE reprise.instances ALTER COLUMN claims TYPE integer`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := testkit.OpenStore(t, testdb.Postgres(t))
			log := &logged{to: slog.NewTextHandler(t.Output(), nil)}
			config := quickly
			config.Logger = slog.New(log)
			ps := configured(t, st, config)
			messages := subscribe(t, ps, "topic", "handler")
			publish := func(n int) {
				for i := range n {
					if i%2 == 0 {
						require.NoError(t, ps.Publisher().Publish("topic", newMessage("direct")))
					} else {
						tx, err := st.DB().Beginx()
						require.NoError(t, err)
						require.NoError(t, ps.PublisherTx(tx).Publish("topic", newMessage("claimed")))
						require.NoError(t, tx.Commit())
					}
					testkit.Receive(t, messages).Ack()
				}
			}
			publish(20)
			for range 3 {
				lose(t, st)
				publish(6)
			}
			testkit.WaitForStatus(t, st, "handler", store.Success, 38)
			requireBeats(t, st, 3)
			for _, message := range log.messages {
				t.Error("logged:", message)
			}
		})
	}
}

// One run that somebody has locked, or whose end a trigger of somebody's refuses, does
// not keep the ends of others from being written, and none is handled again.
func TestOneEndThatCannotBeWrittenHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	lock := func(t *testing.T, st *store.Store) (release func()) {
		tx, err := st.DB().Beginx()
		require.NoError(t, err)
		tx.MustExec(`UPDATE reprise.handler_runs SET priority = 5 WHERE handler = 'victim'`)
		return func() { require.NoError(t, tx.Rollback()) }
	}
	refuse := func(state string) func(t *testing.T, st *store.Store) (release func()) {
		return func(t *testing.T, st *store.Store) (release func()) {
			st.DB().MustExec(`
				CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '` + state + `'; END $$;
				CREATE TRIGGER refuse BEFORE UPDATE ON reprise.handler_runs FOR EACH ROW
				WHEN (NEW.status = 'SUCCESS' AND NEW.handler = 'victim') EXECUTE FUNCTION refuse()`)
			return func() { st.DB().MustExec(`DROP TRIGGER refuse ON reprise.handler_runs`) }
		}
	}
	for name, c := range map[string]struct {
		settings string
		hold     func(t *testing.T, st *store.Store) (release func())
	}{
		"refused, no permission":           {"", refuse("42501")}, // as by row-level security
		"refused, not in this state":       {"", refuse("55000")},
		"refused, not supported":           {"", refuse("0A000")},
		"refused, external routine":        {"", refuse("38000")},
		"refused, authorization":           {"", refuse("28000")},
		"refused, internal":                {"", refuse("XX000")},
		"refused, full":                    {"", refuse("53400")},
		"refused, as a timeout":            {"", refuse("57014")},
		"refused, as a lock":               {"", refuse("55P03")},
		"locked":                           {"", lock},
		"locked, with a lock_timeout":      {"&lock_timeout=100", lock},
		"locked, with a statement_timeout": {"&statement_timeout=300", lock},
		"refused":                          {"", refuse("P0001")},
		"against a constraint": {"", func(t *testing.T, st *store.Store) (release func()) {
			st.DB().MustExec(`ALTER TABLE reprise.handler_runs ADD CONSTRAINT never CHECK (handler <> 'victim' OR status <> 'SUCCESS')`)
			return func() { st.DB().MustExec(`ALTER TABLE reprise.handler_runs DROP CONSTRAINT never`) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := testdb.Postgres(t)
			st, other := testkit.OpenStore(t, address+c.settings), testkit.OpenStore(t, address)
			log := &logged{to: slog.NewTextHandler(t.Output(), nil)}
			config := quickly
			config.Logger = slog.New(log)
			ps := configured(t, st, config)
			victims, bystanders := subscribe(t, ps, "topic", "victim"), subscribe(t, ps, "others", "bystander")
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
			victim := testkit.Receive(t, victims)
			release := c.hold(t, other)
			victim.Ack()
			const n = 50
			for i := range n {
				require.NoError(t, ps.Publisher().Publish("others", newMessage(fmt.Sprint(i))))
				testkit.Receive(t, bystanders).Ack()
			}
			testkit.WaitForStatus(t, other, "bystander", store.Success, n)
			log.requireOnce(t, "the end of a run", "cannot be written")
			require.Equal(t, store.Pending, runs(t, other, store.Filter{Handler: "victim"})[0].Status)
			release()
			testkit.WaitForStatus(t, other, "victim", store.Success, 1)
			require.Equal(t, 1, runs(t, other, store.Filter{Handler: "victim"})[0].Attempt)
			log.requireOnce(t, "the end of a run", "is written after all")
			require.NoError(t, ps.Close())
			requireNothingHeldByNobody(t, other)
		})
	}
}

// One run that a trigger of somebody's refuses to have leased keeps no other handler
// from its runs.
func TestARunThatCannotBeClaimedHoldsUpNoOtherHandler(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.Postgres(t))
	log := &logged{to: slog.NewTextHandler(t.Output(), nil)}
	config := quickly
	config.Logger = slog.New(log)
	ps := configured(t, st, config)
	for _, handler := range []string{"victim", "bystander"} {
		require.NoError(t, ps.Register("topic", handler, handlers.Policy{}))
	}
	st.DB().MustExec(`
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON reprise.handler_runs FOR EACH ROW
		WHEN (NEW.due_at IS NULL AND OLD.due_at IS NOT NULL AND NEW.handler = 'victim') EXECUTE FUNCTION refuse()`)
	const n = 20
	for i := range n {
		require.NoError(t, ps.Publisher().Publish("topic", newMessage(fmt.Sprint(i)))) // nobody serves them yet: they are due
	}
	victims, bystanders := subscribe(t, ps, "topic", "victim"), subscribe(t, ps, "topic", "bystander")
	for range n {
		testkit.Receive(t, bystanders).Ack()
	}
	testkit.WaitForStatus(t, st, "bystander", store.Success, n)
	log.requireOnce(t, "the database refuses", "to lease runs of a handler")
	instances, err := st.Instances(t.Context())
	require.NoError(t, err)
	require.True(t, instances[0].Serves(store.Subscription{Topic: "topic", Handler: "bystander"}))
	st.DB().MustExec(`DROP TRIGGER refuse ON reprise.handler_runs`)
	for range n {
		testkit.Receive(t, victims).Ack()
	}
	testkit.WaitForStatus(t, st, "victim", store.Success, n)
}

// A process that shuts down while one of its runs is locked loses the end of that one
// and of no other.
func TestAClosingProcessWritesTheEndsThatItCan(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	st, other := testkit.OpenStore(t, address+"&lock_timeout=50"), testkit.OpenStore(t, address)
	ps, err := pubsub.New(st, quickly)
	require.NoError(t, err)
	victims, bystanders := subscribe(t, ps, "topic", "victim"), subscribe(t, ps, "others", "bystander")
	for _, topic := range []string{"topic", "others"} {
		require.NoError(t, ps.Publisher().Publish(topic, newMessage("x")))
	}
	victim, bystander := testkit.Receive(t, victims), testkit.Receive(t, bystanders)
	tx, err := other.DB().Beginx()
	require.NoError(t, err)
	tx.MustExec(`UPDATE reprise.handler_runs SET priority = 5 WHERE handler = 'victim'`)
	victim.Ack()
	bystander.Ack()
	require.ErrorContains(t, ps.Close(), "did not take the end of 1 runs")
	testkit.WaitForStatus(t, other, "bystander", store.Success, 1)
	require.NoError(t, tx.Rollback())
}

// However long a run is held, an instance says which runs it holds, so that whoever
// recovers it does not read what has run meanwhile.
func TestARunThatIsHeldForLongIsNamed(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, quickly)
		slow, quick := subscribe(t, ps, "slow", "slow"), subscribe(t, ps, "quick", "quick")
		require.NoError(t, ps.Publisher().Publish("slow", newMessage("x")))
		held := testkit.Receive(t, slow)
		const n = 30
		for i := range n {
			require.NoError(t, ps.Publisher().Publish("quick", newMessage(fmt.Sprint(i))))
			testkit.Receive(t, quick).Ack()
		}
		testkit.WaitForStatus(t, st, "quick", store.Success, n)
		run := runs(t, st, store.Filter{Handler: "slow"})[0].ID
		var row struct {
			Recent int64  `db:"recent_run"`
			Held   string `db:"held_runs"`
		}
		require.Eventually(t, func() bool {
			require.NoError(t, st.DB().Get(&row, `SELECT recent_run, CAST(held_runs AS text) AS held_runs FROM `+testkit.Table(st, "instances")))
			return row.Recent >= n && row.Held[1:len(row.Held)-1] == fmt.Sprint(run)
		}, patience, time.Millisecond, "%+v", &row)
		leases, err := queue.Of(st).Held(t.Context(), runs(t, st, store.Filter{Handler: "slow"})[0].Instance)
		require.NoError(t, err)
		require.Len(t, leases, 1)
		held.Ack()
		testkit.WaitForStatus(t, st, "slow", store.Success, 1)
	})
}

// Somebody removes the subscription of a handler that is served: the process notices,
// says so, and subscribes it again.
func TestARemovedSubscriptionOfALiveHandlerComesBack(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		log := &logged{to: slog.NewTextHandler(t.Output(), nil)}
		config := quickly
		config.Logger = slog.New(log)
		ps := configured(t, st, config)
		messages := subscribe(t, ps, "topic", "handler")
		for range 2 {
			requireBeats(t, st, 5) // it has looked before
			require.NoError(t, operate.On(st).Unsubscribe(t.Context(), store.Subscription{Topic: "topic", Handler: "handler"}, store.By{Name: "maria"}))
			require.Eventually(t, func() bool {
				there, err := st.SubscriptionKeys(t.Context())
				require.NoError(t, err)
				return len(there) == 1
			}, patience, time.Millisecond)
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
			testkit.Receive(t, messages).Ack()
		}
		require.Equal(t, 2, log.lines())
	})
}

// Every process counts failures now and then: those of before an upgrade, and those
// that others, which may know nothing of it, have written since.
func TestAProcessCountsFailures(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		fail := func(id string) {
			t.Helper()
			run, err := queue.Of(st).Record(t.Context(), store.Event{ID: id, Topic: "topic", Source: "test", Payload: []byte("{}")}, "other", "elsewhere", false)
			require.NoError(t, err)
			lost, err := queue.Of(st).End(t.Context(), []queue.Outcome{{Lease: queue.LeaseOf(run), Status: store.Failed, Failure: store.NewFailure("other", store.KindError, "broken")}})
			require.NoError(t, err)
			require.Empty(t, lost)
		}
		counted := func(n int64) {
			t.Helper()
			require.Eventually(t, func() bool {
				found, err := queue.Of(st).Survey(t.Context())
				require.NoError(t, err)
				return !found.Uncounted
			}, patience, time.Millisecond)
			g, err := st.Grouping(t.Context(), store.Filter{})
			require.NoError(t, err)
			require.False(t, g.Counting)
			require.Len(t, g.Groups, 1)
			require.Equal(t, store.Count{N: n}, g.Groups[0].Runs)
		}
		fail("1")
		require.NoError(t, operate.On(st).Recount(t.Context()))
		subscribe(t, configured(t, st, quickly), "topic", "handler")
		counted(1)
		fail("2")
		counted(2)
	})
}
