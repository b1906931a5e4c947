package store_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/storetest"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// A claim that the database still works on, when its instance is taken for
// dead or shuts down, leaves no run in the hands of an instance that nobody
// knows: nobody would ever recover it.
func TestAClaimUnderWayWhileItsInstanceLeaves(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(context.Context, *store.Store) error{
		"found dead": func(_ context.Context, st *store.Store) error {
			_, err := storetest.Recover(t, st)
			return err
		},
		"shuts down": func(ctx context.Context, st *store.Store) error { return queue.Of(st).Deregister(ctx, "a") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			db := testdb.Open(t, testdb.Postgres(t))
			st := migrated(t, db, "")
			require.NoError(t, queue.Of(st).Register(ctx, store.Instance{ID: "a"}))
			require.NoError(t, queue.Of(st).Subscribe(ctx, store.Subscription{Topic: "orders", Handler: "mail"}, ""))
			_, err := queue.Of(st).Insert(ctx, st.DB(), []store.Event{{ID: "1", Topic: "orders"}}, queue.LeaseOnInsert{})
			require.NoError(t, err)
			exec(t, db, `UPDATE reprise.instances SET heartbeat_at = now() - interval '1 hour'`)
			goOn := holdUpdates(t, db)

			claimed, left := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := queue.Of(st).Claim(ctx, queue.Claimant{Instance: "a"}, []queue.Want{{Topic: "orders", Handler: "mail", N: 1}})
				claimed <- err
			}()
			waitForWaiting(t, db, 1)
			go func() { left <- leave(ctx, st) }()
			select {
			case err := <-left:
				left <- err
			case <-waiting(t, db, 2):
			}
			goOn()
			require.NoError(t, <-claimed)
			require.NoError(t, <-left)

			_, err = storetest.Recover(t, st)
			require.NoError(t, err)
			runs, err := st.Runs(ctx, store.Filter{})
			require.NoError(t, err)
			require.Len(t, runs, 1)
			require.Empty(t, runs[0].Instance)
			require.NotZero(t, runs[0].DueAt)
		})
	}
}

// holdUpdates makes statements that update a run wait until goOn is called.
func holdUpdates(t *testing.T, db *sql.DB) (goOn func()) {
	t.Helper()
	exec(t, db, `CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END'`)
	exec(t, db, `CREATE TRIGGER hold BEFORE UPDATE ON reprise.handler_runs FOR EACH ROW EXECUTE FUNCTION hold()`)
	tx, err := db.Begin()
	require.NoError(t, err)
	_, err = tx.Exec(`SELECT pg_advisory_xact_lock(1)`)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback() })
	return func() { require.NoError(t, tx.Rollback()) }
}

// waiting tells when n sessions wait for a lock.
func waiting(t *testing.T, db *sql.DB, n int) <-chan struct{} {
	told := make(chan struct{})
	go func() {
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for range ticker.C {
			var sessions int
			err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&sessions)
			if err != nil {
				return // the test is over
			}
			if sessions >= n {
				close(told)
				return
			}
		}
	}()
	return told
}

func waitForWaiting(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	select {
	case <-waiting(t, db, n):
	case <-time.After(time.Minute):
		t.Fatalf("fewer than %d sessions wait for a lock after 20 s", n)
	}
}

func exec(t *testing.T, db *sql.DB, statement string, args ...any) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
}

// A dead process may have left a transaction open that has locked its run.
// Whoever recovers does not wait for it, and recovers everything else.
func TestRecoveringWaitsForNoTransaction(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := testdb.Open(t, testdb.Postgres(t))
	st := migrated(t, db, "")
	require.NoError(t, queue.Of(st).Subscribe(ctx, store.Subscription{Topic: "orders", Handler: "mail"}, ""))
	leases := map[string]queue.Lease{}
	for _, id := range []string{"stuck", "other"} {
		require.NoError(t, queue.Of(st).Register(ctx, store.Instance{ID: id}))
		_, err := queue.Of(st).Insert(ctx, st.DB(), []store.Event{{ID: id, Topic: "orders"}}, queue.LeaseOnInsert{})
		require.NoError(t, err)
		claimed, err := queue.Of(st).Claim(ctx, queue.Claimant{Instance: id}, []queue.Want{{Topic: "orders", Handler: "mail", N: 1}})
		require.NoError(t, err)
		require.Len(t, claimed, 1)
		leases[id] = queue.LeaseOf(claimed[0].Run)
	}
	exec(t, db, `UPDATE reprise.instances SET heartbeat_at = now() - interval '1 hour'`)
	tx, err := st.DB().BeginTxx(ctx, nil)
	require.NoError(t, err)
	require.NoError(t, queue.Of(st).Succeed(ctx, tx, leases["stuck"]))

	dead, err := storetest.Recover(t, st)
	require.NoError(t, err)
	require.Equal(t, []string{"other"}, dead)
	run, err := st.Run(ctx, leases["other"].RunID)
	require.NoError(t, err)
	require.Empty(t, run.Instance)

	require.NoError(t, tx.Rollback())
	dead, err = storetest.Recover(t, st)
	require.NoError(t, err)
	require.Equal(t, []string{"stuck"}, dead)
	run, err = st.Run(ctx, leases["stuck"].RunID)
	require.NoError(t, err)
	require.Equal(t, store.KindAbandoned, run.ErrorKind)
}

// While the database does not get to prepare one statement, since a table that
// it reads is locked, others are prepared and run.
func TestPreparingAStatementHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	st := migrated(t, testdb.Open(t, testdb.Postgres(t)), "")
	require.NoError(t, queue.Of(st).Register(t.Context(), store.Instance{ID: "a", Host: "host"}))
	lock, err := st.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	lock.MustExec(`LOCK TABLE reprise.handler_runs IN ACCESS EXCLUSIVE MODE`)
	claimed := make(chan error, 1)
	go func() {
		_, err := queue.Of(st).Claim(context.Background(), queue.Claimant{Instance: "a"}, []queue.Want{{Topic: "topic", Handler: "handler", N: 1}})
		claimed <- err
	}()
	require.Eventually(t, func() bool {
		var waits bool
		require.NoError(t, st.DB().Get(&waits, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation')`))
		return waits
	}, time.Minute, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = queue.Of(st).Heartbeat(ctx, nil, "a", queue.HeartbeatReport{})
	require.NoError(t, err)
	require.NoError(t, lock.Rollback())
	require.NoError(t, <-claimed)
}

// A role whose rights are from before an upgrade ends runs that fail, and they are
// counted.
func TestWhoEndsRunsNeedsNoRightToCountThem(t *testing.T) {
	t.Parallel()
	var owner *store.Store
	roles := testdb.NewRoles(t, "../docs/postgres.md", func(url string) { owner = migrated(t, testdb.Open(t, url), "") })
	exec(t, testdb.Open(t, roles.Migrator), `REVOKE ALL ON reprise.failure_changes, reprise.failure_groups, reprise.failures_counted FROM application`)
	st, err := store.New(t.Context(), testdb.Open(t, roles.Application), "")
	require.NoError(t, err)
	run, err := queue.Of(st).Record(t.Context(), store.Event{ID: "1", Topic: "topic", Source: "test", Payload: []byte("{}")}, "handler", "instance", false)
	require.NoError(t, err)
	lost, err := queue.Of(st).End(t.Context(), []queue.Outcome{{Lease: queue.LeaseOf(run), Status: store.Failed, Failure: store.NewFailure("handler", store.KindError, "broken")}})
	require.NoError(t, err)
	require.Empty(t, lost)
	g, err := owner.Grouping(t.Context(), store.Filter{})
	require.NoError(t, err)
	require.Len(t, g.Groups, 1)
}

// What counts failures is for updates that name failed_at: on the way of an event that
// is published, leased and handled there are none.
func TestNothingOnTheWayOfASuccessIsCounted(t *testing.T) {
	t.Parallel()
	db := testdb.Open(t, testdb.Postgres(t))
	st := migrated(t, db, "")
	exec(t, db, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'failed_at is named'; END $$`)
	exec(t, db, `CREATE TRIGGER refuse AFTER UPDATE OF failed_at ON reprise.handler_runs FOR EACH ROW EXECUTE FUNCTION refuse()`)
	require.NoError(t, queue.Of(st).Subscribe(t.Context(), store.Subscription{Topic: "topic", Handler: "handler"}, ""))
	require.NoError(t, queue.Of(st).Register(t.Context(), store.Instance{ID: "a"}))
	_, err := queue.Of(st).InsertNew(t.Context(), st.DB(), []store.Event{{ID: "1", Topic: "topic", Payload: []byte("{}")}}, queue.LeaseOnInsert{})
	require.NoError(t, err)
	claimed, err := queue.Of(st).Claim(t.Context(), queue.Claimant{Instance: "a"}, []queue.Want{{Topic: "topic", Handler: "handler", N: 1}})
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	end := func(status store.Status, failure *store.Failure) ([]queue.Lease, error) {
		return queue.Of(st).End(t.Context(), []queue.Outcome{{Lease: queue.LeaseOf(claimed[0].Run), Status: status, Failure: failure}})
	}
	_, err = end(store.Failed, store.NewFailure("handler", store.KindError, "broken"))
	require.ErrorContains(t, err, "failed_at is named")
	lost, err := end(store.Success, nil)
	require.NoError(t, err)
	require.Empty(t, lost)
}
