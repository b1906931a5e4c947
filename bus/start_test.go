package bus_test

import (
	"context"
	"database/sql"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/internal/testdb"
)

// withSettings has every connection begin with settings of PostgreSQL's.
func withSettings(t *testing.T, databaseURL string, settings map[string]string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	q := u.Query()
	for name, value := range settings {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// lockTable locks a table until release is called.
func lockTable(t *testing.T, db *sql.DB, table string) (release func()) {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.Exec(`LOCK TABLE reprise.` + table + ` IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	return func() { require.NoError(t, tx.Rollback()) }
}

// A process that starts while others lock the tables waits for them, though the
// database gives up waiting: New, and Run.
func TestStartingWaitsWhileTablesAreLocked(t *testing.T) {
	t.Parallel()
	databaseURL := testdb.Postgres(t)
	admin := testdb.Open(t, databaseURL)
	first, err := bus.Open(t.Context(), databaseURL, bus.Config{})
	require.NoError(t, err)
	require.NoError(t, first.Close())
	impatient := withSettings(t, databaseURL, map[string]string{"lock_timeout": "20", "default_transaction_isolation": "serializable"})

	release := lockTable(t, admin, "topics")
	opened := make(chan *bus.Bus, 1)
	go func() {
		b, err := bus.Open(t.Context(), impatient, bus.Config{})
		if err != nil {
			t.Error(err)
		}
		opened <- b
	}()
	waitForTimeouts(t, admin, "topics")
	release()
	b := <-opened
	require.NotNil(t, b)

	handled := make(chan string, 1)
	require.NoError(t, b.Handle(do("handler", func(_ context.Context, e placed) error {
		handled <- e.Order
		return nil
	})))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	release = lockTable(t, admin, "subscriptions")
	go func() { ended <- b.Run(ctx) }()
	waitForTimeouts(t, admin, "subscriptions")
	release()
	require.NoError(t, b.Publish(t.Context(), placed{Order: "1"}))
	select {
	case order := <-handled:
		require.Equal(t, "1", order)
	case err := <-ended:
		t.Fatalf("Run has ended: %v", err)
	case <-time.After(patience):
		t.Fatal("nothing was handled")
	}
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, b.Close())
}

// waitForTimeouts waits until two sessions, one after the other, have waited for a
// lock on the table: the first gave up.
func waitForTimeouts(t *testing.T, db *sql.DB, table string) {
	t.Helper()
	var first time.Time
	require.Eventually(t, func() bool {
		var began sql.NullTime
		require.NoError(t, db.QueryRow(`
			SELECT max(a.query_start) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
			WHERE l.relation = ('reprise.' || $1)::regclass AND NOT l.granted`, table).Scan(&began))
		if began.Valid && first.IsZero() {
			first = began.Time
		}
		return began.Valid && began.Time.After(first)
	}, patience, time.Millisecond)
}

// Run that is to end while it waits ends without an error.
func TestRunEndsWhileItWaitsForALock(t *testing.T) {
	t.Parallel()
	databaseURL := testdb.Postgres(t)
	admin := testdb.Open(t, databaseURL)
	b, err := bus.Open(t.Context(), withSettings(t, databaseURL, map[string]string{"lock_timeout": "20"}), bus.Config{})
	require.NoError(t, err)
	require.NoError(t, b.Handle(nothing[placed]("handler")))
	release := lockTable(t, admin, "subscriptions")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	waitForTimeouts(t, admin, "subscriptions")
	cancel()
	require.NoError(t, <-ended)
	release()
	require.NoError(t, b.Close())
}

type first struct{ ID string }

func (first) EventName() string { return "first" }
func (e first) EventID() string { return e.ID }

type second struct{ ID string }

func (second) EventName() string { return "second" }
func (e second) EventID() string { return e.ID }

// Publishes of the same events on two topics, in different orders, and where
// transactions are serializable.
func TestSeveralTopicsInDifferentOrders(t *testing.T) {
	t.Parallel()
	databaseURL := testdb.Postgres(t)
	b, err := bus.Open(t.Context(), withSettings(t, databaseURL, map[string]string{"default_transaction_isolation": "serializable"}), bus.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	var publishes sync.WaitGroup
	for p := range 8 {
		publishes.Go(func() {
			for i := range 20 {
				id := string(rune('a' + i))
				events := []any{first{id}, second{id}, first{id + "2"}}
				if p%2 == 1 {
					events = []any{second{id}, first{id + "2"}, first{id}}
				}
				if err := b.Publish(t.Context(), events...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishes.Wait()
	var n int
	require.NoError(t, b.DB().QueryRow(`SELECT count(*) FROM reprise.events`).Scan(&n))
	require.Equal(t, 60, n)
}
