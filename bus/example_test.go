package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

type SignedUp struct{ ID, Email string }

func (SignedUp) EventName() string { return "user.signed_up" }

// A publish that commits with the application's own transaction, and one that
// is rolled back with it.
func ExampleBus_PublishTx() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{})
	check(err)
	defer b.Close()
	check(b.Handle(handlers.New("send-welcome-email", func(_ context.Context, e SignedUp) error {
		fmt.Println("welcome,", e.Email)
		stop() // one event is enough: Run returns when this handler has ended
		return nil
	})))

	signUp := func(email string, commit bool) {
		tx, err := b.DB().BeginTx(ctx, nil)
		check(err)
		defer tx.Rollback()
		_, err = tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS users (email text)`)
		check(err)
		_, err = tx.ExecContext(ctx, `INSERT INTO users (email) VALUES ($1)`, email)
		check(err)
		check(b.PublishTx(ctx, tx, SignedUp{Email: email}))
		if commit {
			check(tx.Commit())
		}
	}
	signUp("mallory@example.com", false)
	signUp("ada@example.com", true)

	check(b.Run(ctx))
	// Output: welcome, ada@example.com
}

// A handler that fails, and the record of it.
func ExampleBus_Run() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{Logger: quiet()})
	check(err)
	defer b.Close()
	check(b.Handle(handlers.New("send-welcome-email", func(context.Context, SignedUp) error {
		stop() // Run returns when this attempt is on record
		return handlers.Permanent(errors.New("550 no such mailbox"))
	})))
	check(b.Publish(ctx, SignedUp{ID: "1", Email: "ada@example.com"}))
	check(b.Run(ctx))

	failed, err := b.Store().Runs(context.Background(), store.Filter{Status: store.Failed})
	check(err)
	for _, run := range failed {
		fmt.Println(run.ID, run.Handler, run.Status, "on attempt", run.Attempt, "with", run.Error)
	}
	// Output: 1 send-welcome-email FAILED on attempt 1 with 550 no such mailbox
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// inTemporaryDirectory changes to a directory of its own, and returns what
// changes back and removes it.
func inTemporaryDirectory() (back func()) {
	before, err := os.Getwd()
	check(err)
	dir, err := os.MkdirTemp("", "example")
	check(err)
	check(os.Chdir(dir))
	return func() {
		check(os.Chdir(before))
		check(os.RemoveAll(dir))
	}
}
