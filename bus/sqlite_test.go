package bus_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// plainly is how applications open a SQLite file, and what Reprise says of it.
var plainly = map[string]struct {
	journal string
	query   string
	advice  []string
}{
	"rollback journal":             {"DELETE", "", []string{"no busy_timeout", "begin without the write lock", "journal_mode is delete"}},
	"WAL":                          {"WAL", "", []string{"no busy_timeout", "begin without the write lock"}},
	"WAL, busy timeout":            {"WAL", "?_pragma=busy_timeout(60000)", []string{"begin without the write lock"}},
	"WAL, busy timeout, immediate": {"WAL", "?_pragma=busy_timeout(60000)&_txlock=immediate", nil},
}

// openPlainly returns pools on one new file.
func openPlainly(t *testing.T, journal, query string, n int) (file string, pools []*sql.DB) {
	t.Helper()
	file = filepath.ToSlash(filepath.Join(t.TempDir(), "app.db"))
	for range n {
		db, err := sql.Open("sqlite", file+query)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		pools = append(pools, db)
	}
	_, err := pools[0].Exec(`PRAGMA journal_mode = ` + journal)
	require.NoError(t, err)
	return file, pools
}

// Two processes publish and handle on one file, and the application writes too:
// nothing is refused, and no attempt fails.
func TestASQLiteFileMayBeOpenedPlainly(t *testing.T) {
	t.Parallel()
	const publishers, each = 8, 25
	for name, c := range plainly {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, pools := openPlainly(t, c.journal, c.query, 2)
			reader := reading(t, file)
			_, err := pools[0].Exec(`CREATE TABLE shipped (id TEXT)`)
			require.NoError(t, err)
			buses := make([]*bus.Bus, len(pools))
			for i, db := range pools {
				b, err := bus.New(t.Context(), bus.Config{DB: db, Logger: quiet(), PollInterval: 20 * time.Millisecond,
					DeadAfter: 9 * patience}) // nobody dies here, however busy the machine is
				require.NoError(t, err)
				require.NoError(t, b.Handle(
					do("mail", func(context.Context, placed) error { return nil }),
					handlers.New("ship", func(ctx context.Context, e placed) error {
						tx, _ := handlers.Tx(ctx)
						if _, err := tx.ExecContext(ctx, `INSERT INTO shipped VALUES (?)`, e.Order); err != nil {
							return err
						}
						return b.PublishTx(ctx, tx, paid(e))
					}, handlers.Policy{Attempts: 1, Cycles: 1, Transactional: true}),
					do("bill", func(context.Context, paid) error { return nil }),
				))
				run(t, b)
				buses[i] = b
			}

			var working sync.WaitGroup
			errs := make(chan error, 2*publishers*each)
			for p := range publishers {
				b := buses[p%len(buses)]
				working.Go(func() {
					for i := range each {
						errs <- publishSomehow(t.Context(), b, i, placed{fmt.Sprintf("%d-%d", p, i)})
					}
				})
			}
			working.Wait()
			close(errs)
			for err := range errs {
				require.NoError(t, err)
			}

			st := buses[0].Store()
			require.Eventually(t, func() bool {
				n, err := st.Count(t.Context(), store.Filter{Status: store.Success})
				require.NoError(t, err)
				return n.N == 3*publishers*each
			}, 9*patience, 20*time.Millisecond) // a rollback journal syncs twice for each commit
			var failed []string
			require.NoError(t, sqlx.NewDb(reader, "sqlite3").Select(&failed, `SELECT kind || ': ' || message FROM reprise_run_attempts`))
			require.Empty(t, failed)
			for _, only := range []string{`tries <> 1`, `status <> 'SUCCESS'`, `attempt <> 1`} {
				require.Zero(t, count(t, reader, `SELECT count(*) FROM reprise_handler_runs WHERE `+only), only)
			}
			require.Equal(t, publishers*each, count(t, reader, `SELECT count(*) FROM shipped`))
			require.Equal(t, publishers*each, count(t, reader, `SELECT count(DISTINCT id) FROM shipped`))
		})
	}
}

// reading returns a pool of the test's own, which waits for those that write.
func reading(t *testing.T, file string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(60000)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// publishSomehow takes each of the ways in turn.
func publishSomehow(ctx context.Context, b *bus.Bus, i int, e placed) error {
	switch i % 4 {
	case 0:
		return b.InTx(ctx, func(tx *bus.Tx) error { return b.PublishTx(ctx, tx, e) })
	case 1: // the application's own transaction
		tx, err := b.DB().BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := b.PublishTx(ctx, tx, e); err != nil {
			return fmt.Errorf("%w, %w", err, tx.Rollback())
		}
		return tx.Commit()
	default:
		return b.Publish(ctx, e)
	}
}

func count(t *testing.T, db *sql.DB, query string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(query).Scan(&n))
	return n
}

func TestNewSaysHowToOpenASQLiteFile(t *testing.T) {
	t.Parallel()
	for name, c := range plainly {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, pools := openPlainly(t, c.journal, c.query, 1)
			var log bytes.Buffer
			_, err := bus.New(t.Context(), bus.Config{DB: pools[0], Logger: slog.New(slog.NewTextHandler(&log, nil))})
			require.NoError(t, err)
			if c.advice == nil {
				require.Empty(t, log.String())
				return
			}
			for _, part := range append(c.advice, "file:"+file+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_txlock=immediate", "sqlite:"+file) {
				require.Contains(t, log.String(), part)
			}
			var journal string
			require.NoError(t, pools[0].QueryRow(`PRAGMA journal_mode`).Scan(&journal))
			require.Equal(t, strings.ToLower(c.journal), journal, "the file is the application's")
		})
	}
}

// Connections that each have a database of their own, or keep each other out,
// are refused; one connection is not.
func TestNewRefusesASQLitePoolThatCannotWork(t *testing.T) {
	t.Parallel()
	file := "file:" + filepath.ToSlash(filepath.Join(t.TempDir(), "app.db"))
	for dsn, want := range map[string]string{
		":memory:": `db.SetMaxOpenConns(1)`,
		"file::memory:?_pragma=busy_timeout(10000)": `each connection of the SQLite pool has a database of its own`,
		file + "?_pragma=locking_mode(EXCLUSIVE)":   `leave that pragma out of the DSN`,
	} {
		db, err := sql.Open("sqlite", dsn)
		require.NoError(t, err)
		_, err = bus.New(t.Context(), bus.Config{DB: db, Logger: quiet()})
		require.ErrorContains(t, err, want, dsn)
		require.NoError(t, db.Close())

		db, err = sql.Open("sqlite", dsn)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		db.SetMaxOpenConns(1)
		b, err := bus.New(t.Context(), bus.Config{DB: db, Logger: quiet()})
		require.NoError(t, err, dsn)
		handled := make(chan string, 1)
		require.NoError(t, b.Handle(do("mail", func(_ context.Context, e placed) error { handled <- e.Order; return nil })))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		require.Equal(t, "1", testkit.Receive(t, handled))
	}
}

// A cache that connections share is one database.
func TestASharedMemoryDatabaseWorks(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("sqlite", "file:"+t.Name()+"?mode=memory&cache=shared")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	b, err := bus.New(t.Context(), bus.Config{DB: db, Logger: quiet()})
	require.NoError(t, err)
	handled := make(chan string, 40)
	require.NoError(t, b.Handle(handlers.New("mail", func(_ context.Context, e placed) error { handled <- e.Order; return nil },
		handlers.Policy{Attempts: 1, Cycles: 1, Transactional: true})))
	run(t, b)
	for i := range 40 {
		require.NoError(t, publishSomehow(t.Context(), b, i, placed{fmt.Sprint(i)}))
	}
	for range 40 {
		testkit.Receive(t, handled)
	}
}

func TestARunOnAPlainSQLiteFileIsReplayed(t *testing.T) {
	t.Parallel()
	for name, c := range plainly {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, pools := openPlainly(t, c.journal, c.query, 1)
			b, err := bus.New(t.Context(), bus.Config{DB: pools[0], Logger: quiet()})
			require.NoError(t, err)
			var working atomic.Bool
			require.NoError(t, b.Handle(do("mail", func(context.Context, placed) error {
				if working.Load() {
					return nil
				}
				return errors.New("the mail server is down")
			})))
			run(t, b)
			require.NoError(t, b.Publish(t.Context(), placed{"1"}))
			testkit.WaitForRun(t, b.Store(), store.Filter{Status: store.Failed})
			working.Store(true)
			_, err = replay.All(t.Context(), b.Store(), store.Filter{Handler: "mail"}, replay.Request{By: "maria"})
			require.NoError(t, err)
			require.Equal(t, 2, testkit.WaitForRun(t, b.Store(), store.Filter{Status: store.Success}).Attempt)
		})
	}
}

// A transaction that keeps everything else from being written, and whose code
// waits for it: the code is told at once.
func TestWhatWouldWaitForItsOwnTransactionIsRefused(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		db := testdb.Open(t, url)
		db.SetMaxOpenConns(1)
		nest(t, db)
	})
	t.Run("sqlite, several connections", func(t *testing.T) {
		t.Parallel()
		_, pools := openPlainly(t, "WAL", "", 1)
		nest(t, pools[0])
	})
}

func nest(t *testing.T, db *sql.DB) {
	b, err := bus.New(t.Context(), bus.Config{DB: db, Logger: quiet()})
	require.NoError(t, err)
	require.NoError(t, b.Handle(nothing[placed]("mail")))
	require.NoError(t, b.Publish(t.Context(), placed{"before"}))

	elsewhere := make(chan error, 1)
	require.NoError(t, b.InTx(t.Context(), func(tx *bus.Tx) error {
		for _, nested := range []error{
			b.InTx(t.Context(), func(*bus.Tx) error { return errors.New("it was called") }),
			b.Publish(t.Context(), placed{"nested"}),
			b.Publish(context.Background(), placed{"nested"}, paid{"nested"}),
		} {
			require.ErrorIs(t, nested, store.ErrWaitsForItself)
			require.ErrorContains(t, nested, "bus.PublishTx(ctx, tx, …)")
			require.ErrorContains(t, nested, "nothing was written")
		}
		go func() { elsewhere <- b.Publish(t.Context(), placed{"elsewhere"}) }()
		return b.PublishTx(t.Context(), tx, placed{"in the transaction"})
	}))
	require.NoError(t, testkit.Receive(t, elsewhere), "another goroutine may wait")
	require.NoError(t, b.Publish(t.Context(), placed{"after"}), "the transaction is over")

	require.PanicsWithValue(t, "f", func() { _ = b.InTx(t.Context(), func(*bus.Tx) error { panic("f") }) })
	require.NoError(t, b.Publish(t.Context(), placed{"after a panic"}))
	events, _, err := b.Store().Events(t.Context(), store.EventFilter{})
	require.NoError(t, err)
	require.Len(t, events, 5)
}

// A handler that does not pass its context on is told as well.
func TestATransactionalHandlerOnSQLiteThatPublishesElsewhereIsRefused(t *testing.T) {
	t.Parallel()
	b := open(t, testdb.SQLite(t))
	require.NoError(t, b.Handle(handlers.New("invoice", func(context.Context, placed) error {
		return b.Publish(context.Background(), paid{"1"})
	}, handlers.Policy{Attempts: 1, Cycles: 1, Transactional: true})))
	run(t, b)
	require.NoError(t, b.Publish(t.Context(), placed{"1"}))
	require.Contains(t, testkit.WaitForRun(t, b.Store(), store.Filter{Status: store.Failed}).Error, store.ErrWaitsForItself.Error())
}

// What another process keeps locked is waited for, by Publish as long as its
// context lasts, and Run does not end for it.
func TestALockedSQLiteFileIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"DELETE", "WAL"} {
		t.Run(journal, func(t *testing.T) {
			t.Parallel()
			_, pools := openPlainly(t, journal, "", 2)
			b, err := bus.New(t.Context(), bus.Config{DB: pools[0], Logger: quiet()})
			require.NoError(t, err)
			handled := make(chan string, 4) // the impatient one may be written yet
			require.NoError(t, b.Handle(
				do("mail", func(_ context.Context, e placed) error { handled <- e.Order; return nil }),
				handlers.New("ship", func(_ context.Context, e placed) error { handled <- e.Order; return nil },
					handlers.Policy{Attempts: 1, Cycles: 1, Transactional: true}),
			))
			other, err := pools[1].Conn(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, other.Close()) })
			_, err = other.ExecContext(t.Context(), `BEGIN EXCLUSIVE`)
			require.NoError(t, err)

			run(t, b)
			brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, b.Publish(brief, placed{"impatient"}), context.DeadlineExceeded)
			require.ErrorContains(t, b.InTx(brief, func(*bus.Tx) error { return errors.New("it was called") }), "nothing was written")
			published := make(chan error, 1)
			go func() { published <- b.Publish(t.Context(), placed{"patient"}) }()
			_, err = other.ExecContext(t.Context(), `COMMIT`)
			require.NoError(t, err)
			require.NoError(t, testkit.Receive(t, published))
			for got := 0; got < 2; {
				if testkit.Receive(t, handled) == "patient" {
					got++
				}
			}
		})
	}
}

// A deferred transaction that has read cannot write any more when others have
// written: the error says what to do.
func TestATransactionThatReadBeforeOthersWroteIsToldHowToBegin(t *testing.T) {
	t.Parallel()
	_, pools := openPlainly(t, "WAL", "", 1)
	b, err := bus.New(t.Context(), bus.Config{DB: pools[0], Logger: quiet()})
	require.NoError(t, err)
	tx, err := pools[0].BeginTx(t.Context(), nil)
	require.NoError(t, err)
	var n int
	require.NoError(t, tx.QueryRow(`SELECT count(*) FROM reprise_events`).Scan(&n))
	require.NoError(t, b.Publish(t.Context(), placed{"1"}))
	err = b.PublishTx(t.Context(), tx, placed{"2"})
	require.ErrorContains(t, err, "begin again, and open the pool with _txlock=immediate")
	require.True(t, sqldb.Collided(err))
	require.NoError(t, tx.Rollback())
}
