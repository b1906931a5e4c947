package bus_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// A handler that reads, computes and writes loses no update at the isolation level
// of its policy, and what the database refuses for that costs no attempt.
func TestAReadModifyWriteHandlerLosesNoUpdateByItsIsolation(t *testing.T) {
	for _, level := range []sql.IsolationLevel{sql.LevelRepeatableRead, sql.LevelSerializable} {
		t.Run(level.String(), func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				const n = 40
				b := open(t, url)
				_, err := b.DB().Exec(`CREATE TABLE account (balance INTEGER NOT NULL)`)
				require.NoError(t, err)
				_, err = b.DB().Exec(`INSERT INTO account VALUES (0)`)
				require.NoError(t, err)
				require.NoError(t, b.Handle(handlers.New("deposit", func(ctx context.Context, _ placed) error {
					tx, _ := handlers.Tx(ctx)
					var balance int
					if err := tx.GetContext(ctx, &balance, `SELECT balance FROM account`); err != nil {
						return err
					}
					_, err := tx.ExecContext(ctx, `UPDATE account SET balance = $1`, balance+1)
					return err
				}, handlers.Policy{Transactional: true, Isolation: level, Attempts: 1, Cycles: 1, Concurrency: 4})))
				events := make([]any, n)
				for i := range events {
					events[i] = placed{}
				}
				require.NoError(t, b.Publish(t.Context(), events...))
				run(t, b)
				require.Eventually(t, func() bool {
					ended, err := b.Store().Count(t.Context(), store.Filter{Status: store.Success})
					require.NoError(t, err)
					return ended.N == n
				}, time.Minute, 20*time.Millisecond)
				require.Equal(t, n, count(t, b.DB(), `SELECT balance FROM account`))
				runs, err := b.Store().Runs(t.Context(), store.Filter{Limit: n})
				require.NoError(t, err)
				for _, r := range runs {
					require.Equal(t, 1, r.Tries)
					attempts, err := b.Store().Attempts(t.Context(), r.ID)
					require.NoError(t, err)
					require.Empty(t, attempts)
				}
			})
		})
	}
}

func TestAnIsolationWithoutATransactionIsRefused(t *testing.T) {
	t.Parallel()
	b := open(t, testdb.SQLite(t))
	err := b.Handle(handlers.New("deposit", func(context.Context, placed) error { return nil }, handlers.Policy{Isolation: sql.LevelSerializable}))
	require.ErrorContains(t, err, `handler "deposit": policy: field Isolation Serializable`)
}
