package store_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// Every event that is committed after a subscription gets a run, whatever was open
// when the handler registered; one that was committed before gets none.
func TestWhatIsCommittedAfterASubscriptionGetsItsRun(t *testing.T) {
	t.Parallel()
	sub := store.Subscription{Topic: "orders", Handler: "mail"}
	for name, c := range map[string]struct {
		isolation sql.IsolationLevel
		before    []string // statements of the transaction before the subscription, %s stands for a publish
		after     []string
	}{
		"published before, committed after":        {sql.LevelReadCommitted, []string{"publish"}, nil},
		"published in a savepoint before":          {sql.LevelReadCommitted, []string{"SAVEPOINT a", "publish"}, nil},
		"published in a released savepoint before": {sql.LevelReadCommitted, []string{"SAVEPOINT a", "publish", "RELEASE a"}, nil},
		"begun before, published after":            {sql.LevelReadCommitted, []string{"SELECT 1"}, []string{"publish"}},
		"by an old snapshot, repeatable read":      {sql.LevelRepeatableRead, []string{"SELECT 1 FROM reprise.events"}, []string{"publish"}},
		"by an old snapshot, serializable":         {sql.LevelSerializable, []string{"SELECT 1 FROM reprise.events"}, []string{"SAVEPOINT a", "publish"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			st := migrated(t, testdb.Open(t, testdb.Postgres(t)), "")
			publish := func(q sqldb.Queryer, id string) {
				_, err := queue.Of(st).Insert(ctx, q, []store.Event{{ID: id, Topic: "orders", Source: store.SourcePublish}}, queue.LeaseOnInsert{})
				require.NoError(t, err)
			}
			open := func() *sqlx.Tx {
				tx, err := st.DB().BeginTxx(ctx, &sql.TxOptions{Isolation: c.isolation})
				require.NoError(t, err)
				t.Cleanup(func() { _ = tx.Rollback() })
				return tx
			}
			perform := func(tx *sqlx.Tx, id string, steps []string) {
				for _, step := range steps {
					if step == "publish" {
						publish(tx, id)
						continue
					}
					_, err := tx.Exec(step)
					require.NoError(t, err)
				}
			}
			runs := func() (of []string) {
				require.NoError(t, st.DB().Select(&of, `SELECT event_id FROM reprise.handler_runs ORDER BY event_id`))
				return of
			}

			publish(st.DB(), "committed before")
			committed, forgotten := open(), open()
			perform(committed, "committed after", c.before)
			perform(forgotten, "rolled back", c.before)
			require.NoError(t, queue.Of(st).Subscribe(ctx, sub, ""))
			publish(st.DB(), "published after")
			require.Equal(t, []string{"published after"}, runs())

			still, _, err := queue.Of(st).Settle(ctx, sub, "")
			require.NoError(t, err)
			perform(committed, "committed after", c.after)
			perform(forgotten, "rolled back", c.after)
			require.NotEmpty(t, still)
			for range 2 { // at the first of these it notes what the transactions have become
				again, created, err := queue.Of(st).Settle(ctx, sub, still)
				require.NoError(t, err)
				require.Zero(t, created)
				require.NotEmpty(t, again)
				still = again
			}
			again, created, err := queue.Of(st).Settle(ctx, sub, still)
			require.NoError(t, err)
			require.Zero(t, created)
			require.Equal(t, still, again)
			require.NoError(t, committed.Commit())
			require.NoError(t, forgotten.Rollback())
			still, _, err = queue.Of(st).Settle(ctx, sub, still)
			require.NoError(t, err)
			require.Empty(t, still, "all have ended")
			require.Equal(t, []string{"committed after", "published after"}, runs())

			later := open()
			publish(later, "later")
			still, created, err = queue.Of(st).Settle(ctx, sub, "")
			require.NoError(t, err)
			require.Zero(t, created)
			require.Empty(t, still, "it is settled for good")
			require.NoError(t, later.Commit())
			require.Equal(t, []string{"committed after", "later", "published after"}, runs())
		})
	}
}

// A role that may not see the sessions of another gets their events all the same.
func TestASubscriptionIsSettledByARoleWithFewRights(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := testdb.NewServer(t)
	own := migrated(t, testdb.Open(t, server.URL), "")
	admin := migrated(t, server.Admin, "")
	tx, err := admin.DB().BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	require.NoError(t, err)
	_, err = tx.Exec(`SELECT 1 FROM reprise.events`)
	require.NoError(t, err)
	sub := store.Subscription{Topic: "orders", Handler: "mail"}
	require.NoError(t, queue.Of(own).Subscribe(ctx, sub, ""))
	still, _, err := queue.Of(own).Settle(ctx, sub, "")
	require.NoError(t, err)
	require.NotEmpty(t, still, "the snapshot of another role's session is seen")
	_, err = queue.Of(admin).Insert(ctx, tx, []store.Event{{ID: "1", Topic: "orders", Source: store.SourcePublish}}, queue.LeaseOnInsert{})
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	still, created, err := queue.Of(own).Settle(ctx, sub, still)
	require.NoError(t, err)
	require.Empty(t, still)
	require.EqualValues(t, 1, created)
}

// A transaction that is prepared, and committed long after its session has gone on,
// is waited for like any other: whether it had written when somebody looked first, or
// writes by an old snapshot and is prepared before somebody looks again.
func TestAPreparedTransactionIsWaitedFor(t *testing.T) {
	t.Parallel()
	server := testdb.NewServer(t, "max_prepared_transactions=10")
	for name, before := range map[string]bool{"published before": true, "published by an old snapshot": false} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			sub := store.Subscription{Topic: "orders", Handler: name}
			st := migrated(t, testdb.Open(t, server.URL), "")
			conn, err := st.DB().Connx(ctx)
			require.NoError(t, err)
			defer conn.Close()
			run := func(statement string) {
				_, err := conn.ExecContext(ctx, statement)
				require.NoError(t, err)
			}
			publish := func() {
				_, err := queue.Of(st).Insert(ctx, conn, []store.Event{{ID: name, Topic: "orders", Source: store.SourcePublish}}, queue.LeaseOnInsert{})
				require.NoError(t, err)
			}
			settle := func(open string) (string, int64) {
				still, created, err := queue.Of(st).Settle(ctx, sub, open)
				require.NoError(t, err)
				return still, created
			}
			run(`BEGIN ISOLATION LEVEL REPEATABLE READ`)
			run(`SELECT 1 FROM reprise.events`)
			if before {
				publish()
			}
			require.NoError(t, queue.Of(st).Subscribe(ctx, sub, ""))
			still, _ := settle("")
			require.NotEmpty(t, still)
			if !before {
				publish()
			}
			run(`PREPARE TRANSACTION 'two-phase'`)
			for range 3 {
				var created int64
				still, created = settle(still)
				require.NotEmpty(t, still)
				require.Zero(t, created)
			}
			run(`COMMIT PREPARED 'two-phase'`)
			still, created := settle(still)
			require.Empty(t, still)
			require.EqualValues(t, 1, created)
		})
	}
}

// While no transaction is open, a new subscription is settled by the call that makes it:
// later, the events to look at would be those published meanwhile.
func TestASubscriptionWithoutOpenTransactionsIsSettledAtOnce(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := migrated(t, testdb.Open(t, testdb.Postgres(t)), "")
	unsettled := func(handler string) (unsettled bool) {
		require.NoError(t, st.DB().Get(&unsettled, `SELECT open_then IS NOT NULL FROM reprise.subscriptions WHERE handler = $1`, handler))
		return unsettled
	}
	require.NoError(t, queue.Of(st).Subscribe(ctx, store.Subscription{Topic: "orders", Handler: "alone"}, ""))
	require.False(t, unsettled("alone"))

	open, err := st.DB().BeginTxx(ctx, nil)
	require.NoError(t, err)
	_, err = open.Exec(`SELECT 1`)
	require.NoError(t, err)
	require.NoError(t, queue.Of(st).Subscribe(ctx, store.Subscription{Topic: "orders", Handler: "beside"}, ""))
	require.True(t, unsettled("beside"), "it waits for the open transaction")
	require.NoError(t, open.Rollback())
}
