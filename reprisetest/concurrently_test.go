package reprisetest_test

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/reprisetest"
	"github.com/reprise-bus/reprise/store"
)

// deposits is a handler that reads, computes and writes, and its database.
func deposits(t *testing.T, url, read string, policy handlers.Policy, overlap func()) (*handlers.Handler, *sql.DB) {
	t.Helper()
	db := testdb.Open(t, url)
	_, err := db.ExecContext(t.Context(), `CREATE TABLE account (balance INTEGER NOT NULL)`)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), `INSERT INTO account VALUES (0)`)
	require.NoError(t, err)
	policy.Transactional = true
	return handlers.New("deposit", func(ctx context.Context, _ placed) error {
		tx, _ := handlers.Tx(ctx)
		var balance int
		if err := tx.GetContext(ctx, &balance, read); err != nil {
			return err
		}
		overlap()
		_, err := tx.ExecContext(ctx, `UPDATE account SET balance = $1`, balance+1)
		return err
	}, policy), db
}

func balance(t *testing.T, db *sql.DB) (is int) {
	t.Helper()
	require.NoError(t, db.QueryRowContext(t.Context(), `SELECT balance FROM account`).Scan(&is))
	return is
}

// A handler that was right when messages came one at a time loses what another run
// writes between its read and its write.
func TestConcurrentlyShowsALostUpdate(t *testing.T) {
	t.Parallel()
	var first sync.WaitGroup // two have read before either writes
	first.Add(2)
	var calls atomic.Int32
	h, db := deposits(t, testdb.Postgres(t), `SELECT balance FROM account`, handlers.Policy{Isolation: sql.LevelReadCommitted}, func() {
		if calls.Add(1) <= 2 {
			first.Done()
			first.Wait()
		}
	})
	results := reprisetest.Concurrently(t, h, make([]placed, 20), reprisetest.WithDB(db))
	for _, r := range results {
		require.Equal(t, store.Success, r.Status)
	}
	require.Less(t, balance(t, db), len(results))
}

func TestConcurrentlyShowsThatNoUpdateIsLost(t *testing.T) {
	for name, c := range map[string]struct {
		read   string
		policy handlers.Policy
		sqlite bool
	}{
		"serializable":    {`SELECT balance FROM account`, handlers.Policy{Isolation: sql.LevelSerializable, Concurrency: 4}, true},
		"repeatable read": {`SELECT balance FROM account`, handlers.Policy{Isolation: sql.LevelRepeatableRead, Concurrency: 4}, true},
		"for update":      {`SELECT balance FROM account FOR UPDATE`, handlers.Policy{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			urls := []string{testdb.Postgres(t)}
			if c.sqlite {
				urls = append(urls, testdb.SQLite(t))
			}
			for _, url := range urls {
				h, db := deposits(t, url, c.read, c.policy, func() {})
				results := reprisetest.Concurrently(t, h, make([]placed, 40), reprisetest.WithDB(db))
				for _, r := range results {
					require.Equal(t, store.Success, r.Status)
					require.Empty(t, r.Attempts)
				}
				require.Equal(t, len(results), balance(t, db))
			}
		})
	}
}
