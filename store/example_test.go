package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"log/slog"

	_ "modernc.org/sqlite"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

type Invoiced struct{ Number int }

func (Invoiced) EventName() string { return "invoiced" }

// Failures whose messages differ in numbers and ids only are one group.
func ExampleStore_Groups() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{Concurrency: 1, Logger: slog.New(slog.DiscardHandler)})
	check(err)
	defer b.Close()
	left := 3
	check(b.Handle(handlers.New("print-invoice", func(_ context.Context, e Invoiced) error {
		if left--; left == 0 {
			stop() // Run returns when this attempt is on record
		}
		if e.Number == 17 {
			return handlers.Permanent(errors.New("out of paper"))
		}
		return handlers.Permanent(fmt.Errorf("invoice %d: the printer is offline", e.Number))
	})))
	check(b.Publish(ctx, Invoiced{4711}, Invoiced{4712}, Invoiced{17}))
	check(b.Run(ctx))

	ctx = context.Background()
	groups, err := b.Store().Groups(ctx, store.Filter{})
	check(err)
	for _, g := range groups { // the largest first
		fmt.Println(g.Runs, g.Handler, g.Kind, g.Error)
	}
	runs, err := b.Store().Runs(ctx, store.Filter{Status: store.Failed, Group: groups[0].Fingerprint})
	check(err)
	for _, run := range runs { // the newest first
		fmt.Println("run", run.ID, run.Error)
	}
	// Output:
	// 2 print-invoice permanent invoice 4712: the printer is offline
	// 1 print-invoice permanent out of paper
	// run 2 invoice 4712: the printer is offline
	// run 1 invoice 4711: the printer is offline
}

// The record of another process is opened on its database.
func ExampleNew() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", ":memory:")
	check(err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	check(migrations.Up(ctx, db, "")) // as bus.Open does
	st, err := store.New(ctx, db, "") // "" is the schema "reprise"
	check(err)

	n, err := st.Count(ctx, store.Filter{Status: store.Failed})
	check(err)
	fmt.Println(n, "runs have failed")
	_, err = st.Run(ctx, 4711)
	fmt.Println(errors.Is(err, store.ErrNotFound))
	// Output:
	// 0 runs have failed
	// true
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
