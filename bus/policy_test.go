package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

var soon = handlers.Backoff{Initial: time.Millisecond, Factor: 1, Jitter: -1}

// foreign is an application's own cqrs.EventHandler.
type foreign struct {
	cqrs.EventHandler
	policy handlers.Policy
}

func (f foreign) Policy() handlers.Policy { return f.policy }

func TestHandleNamesTheFieldOfABadPolicy(t *testing.T) {
	t.Parallel()
	b := open(t, "sqlite::memory:")
	for field, bad := range map[string]handlers.Policy{
		"Attempts -1":            {Attempts: -1},
		"Cycles -2":              {Cycles: -2},
		"CycleInterval -1s":      {CycleInterval: -time.Second},
		"Concurrency -3":         {Concurrency: -3},
		"Backoff.Initial -1s":    {Backoff: handlers.Backoff{Initial: -time.Second}},
		"Backoff.Factor 0.5":     {Backoff: handlers.Backoff{Factor: 0.5}},
		"Backoff.Maximum 1s":     {Backoff: handlers.Backoff{Initial: time.Minute, Maximum: time.Second}},
		"Backoff.Jitter 1: want": {Backoff: handlers.Backoff{Jitter: 1}},
	} {
		err := b.Handle(nothing[paid]("good"), handlers.New("mail", func(context.Context, placed) error { return nil }, bad))
		require.ErrorContains(t, err, `handler "mail": policy: field `+field)
		err = b.Handle(foreign{nothing[placed]("own"), bad})
		require.ErrorContains(t, err, `handler "own": policy: field `+field)
	}
	err := b.Handle(handlers.New("twice", func(context.Context, placed) error { return nil }, handlers.Policy{}, handlers.Policy{}))
	require.ErrorContains(t, err, `handler "twice" has 2 policies: want at most one`)
	require.NoError(t, b.Handle(nothing[paid]("good"), nothing[placed]("mail")), "none of them was registered")
}

// Whatever handler says its policy is taken at its word.
func TestAnyHandlerMayHaveAPolicy(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		policy := handlers.Policy{Attempts: 3, Cycles: 1, Backoff: soon}
		own := cqrs.NewEventHandler("own", func(context.Context, *placed) error { return errors.New("no") })
		require.NoError(t, b.Handle(foreign{own, policy}))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		failed := testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "own", Status: store.Failed})
		require.Equal(t, 3, failed.Attempt)
		var described string
		require.NoError(t, b.Store().DB().Get(&described, `SELECT policy FROM `+testkit.Table(b.Store(), "subscriptions")))
		require.JSONEq(t, policy.Describe(), described)
	})
}

// From the first error to the person who replays it.
func TestAFailureTakesItsCourse(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		var healed atomic.Bool
		var calls, failures atomic.Int64
		exhausted := make(chan store.Run, 10)
		require.NoError(t, b.Handle(handlers.New("mail", func(context.Context, placed) error {
			if calls.Add(1); healed.Load() {
				return nil
			}
			return errors.New("no server")
		}, handlers.Policy{
			Attempts: 2, Cycles: 2, CycleInterval: time.Millisecond, Backoff: soon,
			OnFailure:   func(context.Context, store.Run, error) error { failures.Add(1); return nil },
			OnExhausted: func(_ context.Context, run store.Run, _ error) error { exhausted <- run; return nil },
		}), nothing[placed]("books")))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		failed := testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "mail", Status: store.Failed})
		require.Equal(t, failed.ID, testkit.Receive(t, exhausted).ID)
		require.Equal(t, "no server", failed.Error)
		require.EqualValues(t, 4, calls.Load())
		require.EqualValues(t, 2, failures.Load())
		testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "books", Status: store.Success})

		healed.Store(true)
		_, err := replay.One(t.Context(), b.Store(), failed.ID, replay.Request{})
		require.NoError(t, err)
		again := testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "mail", Status: store.Success})
		require.Equal(t, []int{5, 1, 0}, []int{again.Attempt, again.Tries, again.Cycle})
		require.Empty(t, exhausted)
	})
}

func TestAnUndecodableEventFailsAtOnce(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		require.NoError(t, b.Handle(handlers.New("mail", func(context.Context, number) error {
			t.Error("the handler was called")
			return nil
		})))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"not a number"}))
		failed := testkit.WaitForRun(t, b.Store(), store.Filter{Status: store.Failed})
		require.Equal(t, store.KindUndecodable, failed.ErrorKind)
		require.Equal(t, 1, failed.Attempt)
	})
}

// number goes by the name of placed, and is not what placed is.
type number struct{ Order int }

func (number) EventName() string { return placed{}.EventName() }

func TestAPolicysTimeoutEndsTheContextAndIsOnRecord(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		late := func(ctx context.Context, _ placed) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		require.NoError(t, b.Handle(
			handlers.New("slow", late, handlers.Policy{Attempts: 1, Cycles: 1, Timeout: 10 * time.Millisecond}),
			handlers.New("unbounded", func(ctx context.Context, _ placed) error {
				if _, bounded := ctx.Deadline(); bounded {
					return errors.New("it has a deadline")
				}
				return nil
			}, handlers.Policy{Timeout: -1}),
			handlers.New("by default", func(ctx context.Context, _ placed) error {
				if deadline, _ := ctx.Deadline(); time.Until(deadline) < 50*time.Second {
					return fmt.Errorf("its deadline is %v", deadline)
				}
				return nil
			}),
		))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		failed := testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "slow", Status: store.Failed})
		require.Equal(t, store.KindTimeout, failed.ErrorKind)
		testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "unbounded", Status: store.Success})
		testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "by default", Status: store.Success})
	})
}

// What a transactional handler writes and publishes is there once, however
// often it had to try.
func TestATransactionalHandlerPublishesIfItSucceeds(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		_, err := b.DB().Exec(`CREATE TABLE invoices (n int)`)
		require.NoError(t, err)
		var calls, plain atomic.Int64
		paidFor := make(chan string, 10)
		require.NoError(t, b.Handle(
			handlers.New("invoice", func(ctx context.Context, e placed) error {
				tx, ok := handlers.Tx(ctx)
				if !ok {
					return handlers.Permanent(errors.New("no transaction"))
				}
				n := calls.Add(1)
				if _, err := tx.ExecContext(ctx, `INSERT INTO invoices VALUES ($1)`, n); err != nil {
					return err
				}
				if err := b.PublishTx(ctx, tx, paid{fmt.Sprint(e.Order, "/", n)}); err != nil || n == 3 {
					return err
				}
				if n == 2 {
					panic("not yet")
				}
				return errors.New("not yet")
			}, handlers.Policy{Transactional: true, Backoff: soon}),
			do("books", func(ctx context.Context, e paid) error {
				if _, transactional := handlers.Tx(ctx); transactional {
					plain.Add(1)
				}
				paidFor <- e.Order
				return nil
			}),
		))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"o"}))
		require.Equal(t, "o/3", testkit.Receive(t, paidFor))
		done := testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "invoice", Status: store.Success})
		require.Equal(t, 3, done.Attempt)
		booked := testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "books", Status: store.Success})
		event, err := b.Store().Event(t.Context(), booked.Topic, booked.EventID)
		require.NoError(t, err)
		require.Equal(t, done.EventID, event.Metadata["causation_id"])
		var n []int
		require.NoError(t, b.Store().DB().Select(&n, `SELECT n FROM invoices`))
		require.Equal(t, []int{3}, n)
		require.Empty(t, paidFor)
		require.Zero(t, plain.Load(), "only a transactional handler has a transaction")
	})
}

// Publishing outside the transaction would wait for it for ever on SQLite.
func TestOnSQLiteATransactionalHandlerIsToldToPublishInItsTransaction(t *testing.T) {
	t.Parallel()
	b := open(t, testdb.SQLite(t))
	require.NoError(t, b.Handle(handlers.New("invoice", func(ctx context.Context, _ placed) error {
		return errors.Join(
			b.Publish(ctx, paid{"1"}),
			b.InTx(ctx, func(*bus.Tx) error { return errors.New("it was called") }),
		)
	}, handlers.Policy{Attempts: 1, Cycles: 1, Transactional: true})))
	run(t, b)
	require.NoError(t, b.Publish(t.Context(), placed{"1"}))
	failed := testkit.WaitForRun(t, b.Store(), store.Filter{Status: store.Failed})
	require.Equal(t, store.KindError, failed.ErrorKind)
	require.Contains(t, failed.Error, "publish in its transaction, bus.PublishTx")
	require.NotContains(t, failed.Error, "it was called")
}

// A pool that the transactional handlers could take whole is refused.
func TestAPoolThatIsTooSmallIsRefused(t *testing.T) {
	t.Parallel()
	db := testdb.Open(t, testdb.Postgres(t))
	db.SetMaxOpenConns(8)
	for _, c := range []struct {
		concurrency int
		want        string
	}{{5, "allow at least 9"}, {0, "allow at least 20"}, {4, ""}} {
		b, err := bus.New(t.Context(), bus.Config{DB: db, Logger: quiet()})
		require.NoError(t, err)
		require.NoError(t, b.Handle(handlers.New("invoice", func(context.Context, placed) error { return nil },
			handlers.Policy{Transactional: true, Concurrency: c.concurrency})))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err = b.Run(ctx)
		cancel()
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, "the pool has at most 8 connections, and the transactional handlers invoice")
		require.ErrorContains(t, err, c.want)
	}
}

// The types of a group have their slots together, and so their connections.
func TestAGroupNeedsTheConnectionsOfItsSlots(t *testing.T) {
	t.Parallel()
	db := testdb.Open(t, testdb.Postgres(t))
	db.SetMaxOpenConns(8)
	b, err := bus.New(t.Context(), bus.Config{DB: db, Logger: quiet()})
	require.NoError(t, err)
	require.NoError(t, b.HandleGroup("ledger", handlers.Policy{Transactional: true, Concurrency: 4}, nothing[placed](""), nothing[paid]("")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, b.Run(ctx))
}

// ---
