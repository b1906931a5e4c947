package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"testing"
	"time"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/reprisetest"
	"github.com/reprise-bus/reprise/store"
)

type StockChanged struct{ SKU string }

func (StockChanged) EventName() string { return "stock.changed" }

// Three cycles of three attempts. The clock of reprisetest does not wait.
func ExamplePolicy() {
	updateStock := func(context.Context, StockChanged) error { return errors.New("the marketplace is down") }
	tellTheTeam := func(_ context.Context, run store.Run, cause error) error {
		fmt.Println("tell the team: cycle", run.Cycle+1, "of", run.Handler, "failed:", cause)
		return nil
	}
	openATicket := func(_ context.Context, run store.Run, cause error) error {
		fmt.Println("open a ticket:", run.Handler, "is", run.Status)
		return nil
	}

	b := reprisetest.NewBus(t)
	check(b.Handle(handlers.New("update-stock", updateStock, handlers.Policy{
		Attempts:      3,                // in a cycle; 1 s, 4 s, 16 s … apart
		Cycles:        3,                // then it rests
		CycleInterval: time.Hour,        // for so long
		Timeout:       10 * time.Second, // of an attempt
		OnFailure:     tellTheTeam,      // after each failed cycle
		OnExhausted:   openATicket,      // once, when it becomes FAILED
	})))

	check(b.Publish(context.Background(), StockChanged{SKU: "teapot"}))
	result := reprisetest.RequireFailed(t, b, "update-stock")
	fmt.Println(len(result.Attempts), "attempts within", result.Waited)
	// Output:
	// tell the team: cycle 1 of update-stock failed: the marketplace is down
	// tell the team: cycle 2 of update-stock failed: the marketplace is down
	// tell the team: cycle 3 of update-stock failed: the marketplace is down
	// open a ticket: update-stock is FAILED
	// 9 attempts within 2h0m15s
}

// An error that another attempt would only repeat.
func ExamplePermanent() {
	result := reprisetest.Run(t, handlers.New("update-stock", func(_ context.Context, e StockChanged) error {
		return handlers.Permanent(fmt.Errorf("no article %q", e.SKU))
	}), StockChanged{SKU: "teapot"})
	fmt.Println(result.Status, "after", len(result.Attempts), "attempt:", result.Err)
	// Output: FAILED after 1 attempt: no article "teapot"
}

// The quota of today is used up: the cycle ends early, the next one succeeds.
func ExampleSkipCycle() {
	called := 0
	result := reprisetest.Run(t, handlers.New("update-stock", func(context.Context, StockChanged) error {
		if called++; called == 1 {
			return handlers.SkipCycle(errors.New("quota used up"))
		}
		return nil
	}, handlers.Policy{CycleInterval: 24 * time.Hour}), StockChanged{SKU: "teapot"})
	fmt.Println(result.Status, "after", result.Waited)
	// Output: SUCCESS after 24h0m0s
}

// A handler that is not due yet. A snooze is no failure and costs no attempt.
func ExampleSnooze() {
	called := 0
	result := reprisetest.Run(t, handlers.New("update-stock", func(context.Context, StockChanged) error {
		if called++; called == 1 {
			return handlers.Snooze(10 * time.Minute)
		}
		return nil
	}), StockChanged{SKU: "teapot"})
	fmt.Println(result.Status, "after", result.Waited, "with", len(result.Attempts), "failed attempts")
	// Output: SUCCESS after 10m0s with 0 failed attempts
}

// What a transactional handler writes commits together with its SUCCESS: the first
// attempt, which fails, leaves nothing behind.
func ExampleTx() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{Logger: slog.New(slog.DiscardHandler)})
	check(err)
	defer b.Close()
	_, err = b.DB().ExecContext(ctx, `CREATE TABLE movements (sku text)`)
	check(err)

	called := 0
	check(b.Handle(handlers.New("count-stock", func(ctx context.Context, e StockChanged) error {
		tx, _ := handlers.Tx(ctx)
		if _, err := tx.ExecContext(ctx, `INSERT INTO movements (sku) VALUES ($1)`, e.SKU); err != nil {
			return err
		}
		if called++; called == 1 {
			return errors.New("the warehouse does not answer")
		}
		stop() // Run returns when this attempt is committed
		return nil
	}, handlers.Policy{Transactional: true, Backoff: handlers.Backoff{Initial: time.Millisecond}})))
	check(b.Publish(ctx, StockChanged{SKU: "teapot"}))
	check(b.Run(ctx))

	var n int
	check(b.DB().QueryRow(`SELECT count(*) FROM movements`).Scan(&n))
	fmt.Println(called, "attempts,", n, "movement")
	// Output: 2 attempts, 1 movement
}

// t stands for a test's *testing.T.
var t testing.TB = noTest{}

type noTest struct{ testing.TB }

func (noTest) Helper()                  {}
func (noTest) Cleanup(func())           {}
func (noTest) Context() context.Context { return context.Background() }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
