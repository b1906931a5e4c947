package middleware_test

import (
	"database/sql"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

const serializationFailure = `DO $$ BEGIN RAISE EXCEPTION 'collided' USING ERRCODE = '40001'; END $$`

// Two handlers change the same row from the same snapshot: one of them is
// refused, and called again within its attempt.
func TestAHandlerWhoseTransactionCollidesIsCalledAgainInItsAttempt(t *testing.T) {
	for _, level := range []sql.IsolationLevel{sql.LevelRepeatableRead, sql.LevelSerializable} {
		t.Run(level.String(), func(t *testing.T) {
			t.Parallel()
			collide(t, level)
		})
	}
}

func collide(t *testing.T, level sql.IsolationLevel) {
	st := openEffects(t, testdb.Postgres(t))
	_, err := st.DB().Exec(`INSERT INTO effects VALUES ('')`)
	require.NoError(t, err)
	var calls atomic.Int64
	both := make(chan struct{})
	ps := serve(t, st, onceOnly, func(msg *message.Message) error {
		ctx := msg.Context()
		tx, _ := handlers.Tx(ctx)
		var before string
		if err := tx.GetContext(ctx, &before, `SELECT what FROM effects`); err != nil {
			return err
		}
		if calls.Add(1) == 2 {
			close(both)
		}
		<-both
		_, err := tx.ExecContext(ctx, `UPDATE effects SET what = $1`, before+msg.UUID)
		return err
	}, middleware.Transaction(st, level))
	publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
	publish(t, transport{publisher: ps.Publisher()}, "2", "{}")
	requireFirstAttempts(t, st, 2)
	require.Contains(t, []string{"12", "21"}, effects(t, st)[0])
	require.Equal(t, int64(3), calls.Load())
}

// A transaction that collides for long rests, and costs no attempt.
func TestATransactionThatKeepsCollidingCostsNoAttempt(t *testing.T) {
	t.Parallel()
	st := openEffects(t, testdb.Postgres(t))
	var quiet atomic.Bool
	ps := serve(t, st, onceOnly, func(msg *message.Message) error {
		if quiet.Load() {
			return write(msg, "once")
		}
		tx, _ := handlers.Tx(msg.Context())
		_, err := tx.ExecContext(msg.Context(), serializationFailure)
		return err
	}, middleware.Transaction(st))
	publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
	require.Eventually(t, func() bool {
		runs, err := st.Runs(t.Context(), store.Filter{Status: store.Pending})
		require.NoError(t, err)
		return len(runs) == 1 && !runs[0].DueAt.IsZero() && runs[0].Attempt == 1
	}, patience, time.Millisecond)
	run := testkit.WaitForRun(t, st, store.Filter{Status: store.Pending})
	require.Zero(t, run.Tries, "the try is given back")
	quiet.Store(true)
	run = testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
	require.Equal(t, 1, run.Tries)
	require.Equal(t, []string{"once"}, effects(t, st))
	requireNoAttempts(t, st, run)
}

// Another transaction of the handler's own is its own business.
func TestACollisionOfAnotherTransactionIsAFailure(t *testing.T) {
	t.Parallel()
	st := openEffects(t, testdb.Postgres(t))
	ps := serve(t, st, onceOnly, func(msg *message.Message) error {
		_, err := st.DB().ExecContext(msg.Context(), serializationFailure)
		return err
	}, middleware.Transaction(st))
	publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
	require.Contains(t, testkit.WaitForRun(t, st, store.Filter{Status: store.Failed}).Error, "collided")
}

// A handler whose transaction could not begin has not been called.
func TestATransactionThatCouldNotBeginInTimeCostsNoAttempt(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]string{"no busy timeout": "", "busy timeout": "?_pragma=busy_timeout(5000)"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, lock := openPlainly(t, query)
			waited := make(chan error, 100)
			var locked atomic.Bool
			ps := serve(t, st, onceOnly, func(msg *message.Message) error { return write(msg, "once") },
				func(next message.HandlerFunc) message.HandlerFunc {
					return func(msg *message.Message) ([]*message.Message, error) {
						unlock := func() {}
						if locked.CompareAndSwap(false, true) {
							unlock = lock(`BEGIN IMMEDIATE`)
						}
						produced, err := next(msg)
						unlock()
						waited <- err
						return produced, err
					}
				}, middleware.Timeout(50*time.Millisecond), middleware.Transaction(st))
			publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
			require.ErrorContains(t, testkit.Receive(t, waited), "begin the handler's transaction: ")
			run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
			require.Equal(t, 1, run.Tries)
			require.Equal(t, []string{"once"}, effects(t, st))
			requireNoAttempts(t, st, run)
		})
	}
}

// In a rollback journal COMMIT waits for readers, and is refused when they take
// longer than the busy timeout.
func TestACommitThatReadersKeepFromSQLiteIsTriedAgain(t *testing.T) {
	t.Parallel()
	st, lock := openPlainly(t, "?_pragma=busy_timeout(1000)")
	calls := make(chan struct{}, 100)
	var unlock func()
	ps := serve(t, st, onceOnly, func(msg *message.Message) error {
		if unlock == nil {
			unlock = lock(`BEGIN; SELECT count(*) FROM effects`)
		}
		calls <- struct{}{}
		return write(msg, "once")
	}, middleware.Transaction(st))
	publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
	testkit.Receive(t, calls)
	testkit.Receive(t, calls)
	unlock()
	requireFirstAttempts(t, st, 1)
	require.Equal(t, []string{"once"}, effects(t, st))
}

// openPlainly opens a file with a rollback journal; lock runs a statement on
// another connection, as another process would, and returns what ends it.
func openPlainly(t *testing.T, query string) (st *store.Store, lock func(statement string) (unlock func())) {
	t.Helper()
	file := filepath.ToSlash(filepath.Join(t.TempDir(), "app.db"))
	pools := make([]*sql.DB, 2)
	for i := range pools {
		var err error
		pools[i], err = sql.Open("sqlite", file+query)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, pools[i].Close()) })
	}
	require.NoError(t, migrations.Up(t.Context(), pools[0], ""))
	st, err := store.New(t.Context(), pools[0], "")
	require.NoError(t, err)
	_, err = st.DB().Exec(`CREATE TABLE effects (what text NOT NULL)`)
	require.NoError(t, err)
	return st, func(statement string) func() {
		conn, err := pools[1].Conn(t.Context())
		require.NoError(t, err)
		_, err = conn.ExecContext(t.Context(), `PRAGMA busy_timeout = 10000`)
		require.NoError(t, err)
		_, err = conn.ExecContext(t.Context(), statement)
		require.NoError(t, err)
		return func() {
			_, err := conn.ExecContext(t.Context(), `ROLLBACK`)
			require.NoError(t, err)
			require.NoError(t, conn.Close())
		}
	}
}

// requireFirstAttempts waits until n runs have succeeded, each at its first
// attempt.
func requireFirstAttempts(t *testing.T, st *store.Store, n int) {
	t.Helper()
	var runs []store.Run
	require.Eventually(t, func() bool {
		var err error
		runs, err = st.Runs(t.Context(), store.Filter{Status: store.Success})
		require.NoError(t, err)
		return len(runs) == n
	}, patience, time.Millisecond)
	for _, run := range runs {
		require.Equal(t, 1, run.Attempt)
		requireNoAttempts(t, st, run)
	}
}

func requireNoAttempts(t *testing.T, st *store.Store, run store.Run) {
	t.Helper()
	attempts, err := st.Attempts(t.Context(), run.ID)
	require.NoError(t, err)
	require.Empty(t, attempts, "none failed")
}
