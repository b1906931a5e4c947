package middleware_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/storetest"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

var soonAgain = handlers.Policy{Attempts: 5, Cycles: 1, Backoff: handlers.Backoff{Initial: time.Millisecond, Factor: 1, Jitter: -1}}

func TestWritesAndSuccessCommitTogether(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openEffects(t, url)
		written, finish := make(chan struct{}), make(chan struct{})
		ps := serve(t, st, onceOnly, func(msg *message.Message) error {
			if err := write(msg, "once"); err != nil {
				return err
			}
			close(written)
			<-finish
			return nil
		}, middleware.Transaction(st))
		publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
		testkit.Receive(t, written)
		if queue.Of(st).LeasesOnInsert() { // PostgreSQL; on SQLite nobody can look meanwhile
			require.Empty(t, effects(t, st))
			require.Equal(t, store.Pending, testkit.WaitForRun(t, st, store.Filter{Status: store.Pending}).Status)
		}
		close(finish)
		run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		require.Equal(t, []string{"once"}, effects(t, st))
		require.Equal(t, 1, run.Attempt)
	})
}

// However a transactional handler fails, it has written nothing.
func TestAHandlerThatFailsHasWrittenNothing(t *testing.T) {
	wentWrong := errors.New("it went wrong")
	for name, c := range map[string]struct {
		handle   message.NoPublishHandlerFunc
		kind     store.Kind
		message  string
		postgres bool // only
	}{
		"error":  {handle: func(*message.Message) error { return wentWrong }, kind: store.KindError, message: "it went wrong"},
		"panic":  {handle: func(*message.Message) error { panic("too much") }, kind: store.KindPanic, message: "panic: too much"},
		"goexit": {handle: func(*message.Message) error { runtime.Goexit(); return nil }, kind: store.KindPanic, message: "runtime.Goexit"},
		"timeout": {
			handle: func(msg *message.Message) error { <-msg.Context().Done(); return msg.Context().Err() },
			kind:   store.KindTimeout, message: "the timeout of 100ms was over",
		},
		"nil after the timeout": {
			handle: func(msg *message.Message) error { <-msg.Context().Done(); return nil },
			kind:   store.KindTimeout, message: "the timeout of 100ms was over",
		},
		"a statement that failed": {
			handle: func(msg *message.Message) error { _ = write(msg, nil); return nil },
			kind:   store.KindError, message: "25P02", postgres: true,
		},
		"a commit that is refused": {
			handle: func(msg *message.Message) error { return write(msg, "unwanted at commit") },
			kind:   store.KindError, message: "commit the handler's transaction: pq: ", postgres: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := openEffects(t, url)
				if c.postgres && !queue.Of(st).LeasesOnInsert() {
					return // the failure is one that only PostgreSQL has
				}
				limit := patience
				if c.kind == store.KindTimeout {
					limit = 100 * time.Millisecond
				}
				ps := serve(t, st, onceOnly, func(msg *message.Message) error {
					if err := write(msg, "never"); err != nil && limit == patience {
						return err
					}
					return c.handle(msg)
				}, middleware.Timeout(limit), middleware.Transaction(st))
				publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
				run := testkit.WaitForRun(t, st, store.Filter{Status: store.Failed})
				require.Equal(t, c.kind, run.ErrorKind)
				require.Contains(t, run.Error, c.message)
				require.Empty(t, effects(t, st))
			})
		})
	}
}

// The next attempt is as if there had been none before.
func TestOnlyTheAttemptThatSucceedsHasWritten(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openEffects(t, url)
		var calls atomic.Int64
		ps := serve(t, st, soonAgain, func(msg *message.Message) error {
			n := calls.Add(1)
			if err := write(msg, fmt.Sprint(n)); err != nil || n == 3 {
				return err
			}
			return errors.New("not yet")
		}, middleware.Transaction(st))
		publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
		run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		require.Equal(t, 3, run.Attempt)
		require.Equal(t, []string{"3"}, effects(t, st))
	})
}

func TestATransactionalHandlerThatProducesMessagesIsRefused(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openEffects(t, url)
		ps, err := pubsub.New(st, pubsub.Config{Logger: quiet()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, ps.Close()) })
		router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, watermill.NopLogger{})
		require.NoError(t, err)
		router.AddMiddleware(middleware.Record(st), middleware.Transaction(st))
		router.AddHandler("handler", "topic", ps.Subscriber("handler", soonAgain), "out", ps.Publisher(), func(msg *message.Message) ([]*message.Message, error) {
			return message.Messages{msg.Copy()}, write(msg, "never")
		})
		runRouter(t, router)
		publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
		run := testkit.WaitForRun(t, st, store.Filter{Status: store.Failed})
		require.Equal(t, store.KindPermanent, run.ErrorKind)
		require.Equal(t, 1, run.Attempt, "trying again would not help")
		require.Contains(t, run.Error, "publish them through its transaction")
		require.Empty(t, effects(t, st))
		_, err = st.Event(t.Context(), "out", "1")
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}

func TestTransactionsWorkOnAForeignTransport(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openEffects(t, url)
		ch := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
		router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, watermill.NopLogger{})
		require.NoError(t, err)
		router.AddMiddleware(middleware.Record(st), middleware.Transaction(st))
		var calls atomic.Int64
		router.AddConsumerHandler("handler", "topic", ch, func(msg *message.Message) error {
			n := calls.Add(1)
			if err := write(msg, fmt.Sprint(n)); err != nil || n > 2 {
				return err
			}
			if n == 1 {
				return errors.New("not yet")
			}
			panic("not yet")
		})
		runRouter(t, router)
		publish(t, transport{publisher: ch}, "1", "{}")
		require.Equal(t, 3, testkit.WaitForRun(t, st, store.Filter{Status: store.Success}).Attempt)
		require.Equal(t, []string{"3"}, effects(t, st))
	})
}

func TestATransactionNeedsARun(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		_, err := middleware.Transaction(testkit.OpenStore(t, url))(func(*message.Message) ([]*message.Message, error) {
			t.Error("the handler was called")
			return nil, nil
		})(message.NewMessage("1", nil))
		require.ErrorContains(t, err, "put middleware.Record before middleware.Transaction")
	})
}

// A handler whose run was given to another while it was at work has written
// nothing; the other decides. It is logged.
func TestAHandlerThatLostItsRunHasWrittenNothing(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t) // on SQLite nobody can take it away meanwhile
	st, others := openEffects(t, url), testkit.OpenStore(t, url)
	var log buffer
	first, finish := make(chan struct{}), make(chan struct{})
	config := pubsub.Config{HeartbeatInterval: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	exhausted := make(chan struct{}, 1)
	policy := handlers.Policy{Attempts: 2, Cycles: 1, OnFailure: func(_ context.Context, _ store.Run, _ error) error {
		exhausted <- struct{}{}
		return nil
	}}
	ps := serveWith(t, st, config, policy, func(msg *message.Message) error {
		delivery, _ := handlers.DeliveryFrom(msg.Context())
		n := delivery.Run().Attempt
		if err := write(msg, fmt.Sprint(n)); err != nil || n > 1 {
			return err
		}
		close(first)
		<-finish
		return nil
	}, middleware.Transaction(st))
	publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
	testkit.Receive(t, first)
	require.Len(t, storetest.TakeForDead(t, others), 1)
	run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
	require.Equal(t, 2, run.Attempt)
	close(finish)
	require.Eventually(t, func() bool { return log.contains("given to another") }, patience, time.Millisecond)
	require.Equal(t, []string{"2"}, effects(t, st))
	attempts, err := st.Attempts(t.Context(), run.ID)
	require.NoError(t, err)
	require.Len(t, attempts, 1)
	require.Equal(t, store.KindAbandoned, attempts[0].Kind)
	require.Empty(t, exhausted, "who lost the run does not speak for it")
}

// A run that is taken away by the time of the commit, and of which nobody has
// made anything yet.
func TestARunThatWasStolenIsNotCommitted(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openEffects(t, url)
		var calls atomic.Int64
		ps := serve(t, st, soonAgain, func(msg *message.Message) error {
			n := calls.Add(1)
			if n > 1 {
				return write(msg, fmt.Sprint(n))
			}
			tx, _ := handlers.Tx(msg.Context())
			delivery, _ := handlers.DeliveryFrom(msg.Context())
			_, err := tx.Exec(`UPDATE `+testkit.Table(st, "handler_runs")+` SET instance = 'thief' WHERE id = $1`, delivery.Run().ID)
			return errors.Join(err, write(msg, "never"))
		}, middleware.Transaction(st))
		publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
		run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		require.Equal(t, []string{"2"}, effects(t, st), "the theft was rolled back with the rest")
		attempts, err := st.Attempts(t.Context(), run.ID)
		require.NoError(t, err)
		require.Len(t, attempts, 1)
		require.Contains(t, attempts[0].Message, store.ErrLeaseLost.Error())
	})
}

// The network fails while the server commits: nobody is told that it did, and
// still the handler's work is done once.
func TestALostAnswerToTheCommitDoublesNothing(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	direct := openEffects(t, address)
	link := testdb.NewLink(t, address)
	st := testkit.OpenStore(t, link.URL)
	var calls atomic.Int64
	ps := serve(t, st, soonAgain, func(msg *message.Message) error {
		calls.Add(1)
		return write(msg, "held at commit")
	}, middleware.Transaction(st))

	holder, err := direct.DB().Connx(t.Context())
	require.NoError(t, err)
	defer holder.Close()
	_, err = holder.ExecContext(t.Context(), `SELECT pg_advisory_lock(1)`)
	require.NoError(t, err)
	publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
	waitForAdvisory(t, direct) // COMMIT is under way
	link.Cut()
	require.Empty(t, effects(t, direct))
	_, err = holder.ExecContext(t.Context(), `SELECT pg_advisory_unlock(1)`)
	require.NoError(t, err)

	run := testkit.WaitForRun(t, direct, store.Filter{Status: store.Success})
	require.NoError(t, ps.Publisher().Publish("topic", message.NewMessage("2", []byte("{}"))), "it goes on")
	require.Eventually(t, func() bool { return len(effects(t, direct)) == 2 }, patience, time.Millisecond)
	require.EqualValues(t, 2, calls.Load(), "one call for each event")
	run, err = direct.Run(t.Context(), run.ID)
	require.NoError(t, err)
	require.Equal(t, store.Success, run.Status)
	require.Equal(t, 1, run.Attempt)
}

// A connection that is lost before the commit: nothing is written, and the run
// is tried again.
func TestALostConnectionBeforeTheCommitIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t)
	st, others := openEffects(t, url), testkit.OpenStore(t, url)
	var calls atomic.Int64
	ps := serve(t, st, soonAgain, func(msg *message.Message) error {
		n := calls.Add(1)
		err := write(msg, fmt.Sprint(n))
		if err != nil || n > 1 {
			return err
		}
		var pid int
		tx, _ := handlers.Tx(msg.Context())
		if err := tx.Get(&pid, `SELECT pg_backend_pid()`); err != nil {
			return err
		}
		_, err = others.DB().Exec(`SELECT pg_terminate_backend($1)`, pid)
		return err
	}, middleware.Transaction(st))
	publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
	run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
	require.Equal(t, 2, run.Attempt)
	require.Equal(t, []string{"2"}, effects(t, st))
}

// ---

// openEffects is openStore with a table that handlers write to. On PostgreSQL,
// what it does not want is refused, or held up, only at commit.
func openEffects(t *testing.T, url string) *store.Store {
	t.Helper()
	st := testkit.OpenStore(t, url)
	_, err := st.DB().Exec(`CREATE TABLE effects (what text NOT NULL)`)
	require.NoError(t, err)
	if queue.Of(st).LeasesOnInsert() {
		_, err = st.DB().Exec(`
			CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.what = 'unwanted at commit' THEN RAISE 'unwanted'; END IF;
				IF NEW.what = 'held at commit' THEN PERFORM pg_advisory_xact_lock(1); END IF;
				RETURN NULL;
			END $$;
			CREATE CONSTRAINT TRIGGER judged AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION judge()`)
		require.NoError(t, err)
	}
	return st
}

// write writes in the handler's transaction.
func write(msg *message.Message, what any) error {
	tx, ok := handlers.Tx(msg.Context())
	if !ok {
		return handlers.Permanent(errors.New("the handler has no transaction"))
	}
	_, err := tx.ExecContext(msg.Context(), `INSERT INTO effects (what) VALUES ($1)`, what)
	return err
}

func effects(t *testing.T, st *store.Store) (all []string) {
	t.Helper()
	require.NoError(t, st.DB().SelectContext(t.Context(), &all, `SELECT what FROM effects`))
	return all
}

// waitForAdvisory waits until somebody waits for an advisory lock.
func waitForAdvisory(t *testing.T, st *store.Store) {
	t.Helper()
	require.Eventually(t, func() bool {
		var n int
		err := st.DB().Get(&n, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'`)
		return err == nil && n == 1
	}, patience, time.Millisecond)
}

// buffer is a log that can be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) contains(part string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.text.Bytes(), []byte(part))
}
