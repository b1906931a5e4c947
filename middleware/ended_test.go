package middleware_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
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

// A handler that ends its transaction itself is FAILED at once, on every driver, in
// whatever way it ends the transaction and however it goes on: nothing that it writes
// is committed twice, and no SUCCESS stands without it.
func TestAHandlerThatEndsItsTransactionItselfIsFailedAtOnce(t *testing.T) {
	t.Parallel()
	text := func(statements ...string) func(msg *message.Message) error {
		return func(msg *message.Message) error {
			tx, _ := handlers.Tx(msg.Context())
			for _, statement := range statements {
				if _, err := tx.ExecContext(msg.Context(), statement); err != nil {
					return handlers.Permanent(fmt.Errorf("the test's own statement: %w", err))
				}
			}
			return nil
		}
	}
	method := func(end func(tx *sql.Tx) error) func(msg *message.Message) error {
		return func(msg *message.Message) error {
			tx, _ := handlers.Tx(msg.Context())
			return end(tx.Tx)
		}
	}
	ways := map[string]struct {
		end       func(msg *message.Message) error
		committed bool
	}{
		"Commit":                       {method((*sql.Tx).Commit), true},
		"Rollback":                     {method((*sql.Tx).Rollback), false},
		"COMMIT":                       {text(`COMMIT`), true},
		"ROLLBACK":                     {text(`ROLLBACK`), false},
		"COMMIT, and another":          {text(`COMMIT`, `BEGIN`), true},
		"ROLLBACK, and another":        {text(`ROLLBACK`, `BEGIN`), false},
		"a savepoint, and then COMMIT": {text(`SAVEPOINT inner_one`, `COMMIT`), true},
	}
	goesOn := map[string]func() error{
		"nil":    func() error { return nil },
		"error":  func() error { return errors.New("it went wrong") },
		"snooze": func() error { return handlers.Snooze(0) },
		"panic":  func() error { panic(errors.New("it went wrong")) },
	}
	onEveryDriver(t, func(t *testing.T, st *store.Store) {
		var calls sync.Map // by message
		ps := serve(t, st, soonAgain, func(msg *message.Message) error {
			_, again := calls.LoadOrStore(msg.UUID, true)
			if again {
				return errors.New("it is called again")
			}
			if err := write(msg, msg.UUID); err != nil {
				return err
			}
			way, how, _ := strings.Cut(msg.UUID, "; ")
			if err := ways[way].end(msg); err != nil {
				return err
			}
			return goesOn[how]()
		}, middleware.Transaction(st))
		for way, c := range ways {
			for how := range goesOn {
				id := way + "; " + how
				publish(t, transport{publisher: ps.Publisher()}, id, "{}")
				var run store.Run
				require.Eventually(t, func() bool {
					runs, err := st.Runs(t.Context(), store.Filter{EventID: id})
					if err == nil && len(runs) == 1 {
						run = runs[0]
					}
					return run.Status == store.Failed
				}, patience, 5*time.Millisecond, id)
				require.Equal(t, store.KindPermanent, run.ErrorKind, "%s: %s", id, run.Error)
				require.Contains(t, run.Error, store.ErrEnded.Error(), id)
				require.Equal(t, 1, run.Attempt, id)
				var written int
				require.NoError(t, st.DB().GetContext(t.Context(), &written, `SELECT count(*) FROM effects WHERE what = $1`, id))
				require.Equal(t, c.committed, written == 1, "%s: %d rows", id, written)
			}
		}
	})
}

// What a handler may do with its transaction, it still may.
func TestSavepointsDoNotEndATransaction(t *testing.T) {
	t.Parallel()
	onEveryDriver(t, func(t *testing.T, st *store.Store) {
		ps := serve(t, st, onceOnly, func(msg *message.Message) error {
			tx, _ := handlers.Tx(msg.Context())
			for _, statement := range []string{
				`SAVEPOINT a`, `INSERT INTO effects (what) VALUES ('gone')`, `ROLLBACK TO SAVEPOINT a`,
				`SAVEPOINT b`, `INSERT INTO effects (what) VALUES ('kept')`, `RELEASE SAVEPOINT b`, `SAVEPOINT c`,
			} {
				if _, err := tx.ExecContext(msg.Context(), statement); err != nil {
					return err
				}
			}
			return nil
		}, middleware.Transaction(st))
		publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
		testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		require.Equal(t, []string{"kept"}, effects(t, st))
	})
}

// onEveryDriver runs f on every driver that there is, on a database of its own with
// the table effects.
func onEveryDriver(t *testing.T, f func(t *testing.T, st *store.Store)) {
	t.Helper()
	with := func(name string, open func(t *testing.T) *sql.DB) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			_, err := db.ExecContext(t.Context(), `CREATE TABLE effects (what text NOT NULL)`)
			require.NoError(t, err)
			require.NoError(t, migrations.Up(t.Context(), db, ""))
			st, err := store.New(t.Context(), db, "")
			require.NoError(t, err)
			f(t, st)
		})
	}
	for _, d := range testdb.Drivers() {
		with(d.Name, func(t *testing.T) *sql.DB { return d.Open(t, testdb.Postgres(t)) })
	}
	with("sqlite", func(t *testing.T) *sql.DB { return testdb.Open(t, testdb.SQLite(t)) })
}
