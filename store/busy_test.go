package store_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// A transaction that the application's code runs in keeps others from writing
// before it has written itself, however the pool begins transactions.
func TestATransactionHasSQLitesWriteLockFromItsBeginning(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"DELETE", "WAL"} {
		t.Run(journal, func(t *testing.T) {
			t.Parallel()
			db := openPlainly(t, testdb.SQLite(t))
			_, err := db.Exec(`PRAGMA journal_mode = ` + journal)
			require.NoError(t, err)
			st := migrated(t, db, "")
			tx, over, err := st.Database().Begin(t.Context(), nil)
			require.NoError(t, err)
			defer over()
			other, err := db.Conn(t.Context())
			require.NoError(t, err)
			defer other.Close()
			_, err = other.ExecContext(t.Context(), `PRAGMA busy_timeout = 0`)
			require.NoError(t, err)
			_, err = other.ExecContext(t.Context(), `BEGIN IMMEDIATE`)
			require.True(t, sqldb.Collided(err), "%v", err)
			require.NoError(t, tx.Commit())
			_, err = other.ExecContext(t.Context(), `BEGIN IMMEDIATE`)
			require.NoError(t, err)
			_, err = other.ExecContext(t.Context(), `ROLLBACK`)
			require.NoError(t, err)
		})
	}
}

// In a rollback journal a reader keeps a statement from being committed, which
// shows only when its rows are closed.
func TestWhatReadersKeepFromSQLiteIsNoSuccess(t *testing.T) {
	t.Parallel()
	db := openPlainly(t, testdb.SQLite(t))
	st := migrated(t, db, "")
	require.NoError(t, queue.Of(st).Register(t.Context(), store.Instance{ID: "a", Host: "host"}))
	subscription := store.Subscription{Topic: "orders", Handler: "mail"}
	writes := map[string]func(ctx context.Context) error{
		"Heartbeat": func(ctx context.Context) error {
			_, err := queue.Of(st).Heartbeat(ctx, nil, "a", queue.HeartbeatReport{Holding: &queue.Holding{Recent: 7}})
			return err
		},
		"Relay": func(ctx context.Context) error { _, err := queue.Of(st).Relay(ctx, "a", time.Minute); return err },
		"Register": func(ctx context.Context) error {
			return queue.Of(st).Register(ctx, store.Instance{ID: "b", Host: "host"})
		},
		"Subscribe": func(ctx context.Context) error { return queue.Of(st).Subscribe(ctx, subscription, "") },
		"WriteOutbox": func(ctx context.Context) error {
			_, err := queue.Of(st).WriteOutbox(ctx, st.DB(), []store.Event{{ID: "1", Topic: "orders", Payload: []byte("{}")}}, func(string) bool { return false })
			return err
		},
	}
	written := func() (counts []int) {
		for _, query := range []string{
			`SELECT count(*) FROM reprise_instances WHERE lowest_run = 7`,
			`SELECT count(*) FROM reprise_relay`,
			`SELECT count(*) FROM reprise_instances WHERE id = 'b'`,
			`SELECT count(*) FROM reprise_subscriptions`,
			`SELECT count(*) FROM reprise_outbox`,
		} {
			var n int
			require.NoError(t, db.QueryRow(query).Scan(&n))
			counts = append(counts, n)
		}
		return counts
	}

	reader := read(t, db)
	for name, write := range writes {
		brief, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.Error(t, write(brief), name)
		cancel()
	}
	require.Equal(t, []int{0, 0, 0, 0, 0}, written())

	ended := make(chan error, len(writes))
	for _, write := range writes {
		go func() { ended <- write(t.Context()) }()
	}
	require.NoError(t, reader.Rollback())
	for range writes {
		require.NoError(t, <-ended)
	}
	require.Equal(t, []int{1, 1, 1, 1, 1}, written())
}

// read begins a transaction that has read.
func read(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.Begin()
	require.NoError(t, err)
	var n int
	require.NoError(t, tx.QueryRow(`SELECT count(*) FROM reprise_instances`).Scan(&n))
	return tx
}
