package bus_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
)

type UserSignedUp struct{ ID, Email string }

func (UserSignedUp) EventName() string { return "user.signed_up" } // the topic

// The complete program of the README. It ends by itself after one event.
func Example() {
	defer inTemporaryDirectory()()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	b, err := bus.Open(ctx, "sqlite:app.db", bus.Config{}) // or "postgres://…"; bus.New takes a pool of yours
	check(err)
	defer b.Close()

	check(b.Handle(handlers.New("send-welcome-email", func(ctx context.Context, e UserSignedUp) error {
		fmt.Println("welcome,", e.Email)
		stop()     // the program in the README waits for Ctrl-C instead
		return nil // an error is recorded, and tried again: see Policy
	})))

	check(b.InTx(ctx, func(tx *bus.Tx) error { // the event exists when the user does, and never otherwise
		if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS users (id text, email text)`); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO users (id, email) VALUES ('1', 'ada@example.com')`); err != nil {
			return err
		}
		return b.PublishTx(ctx, tx, UserSignedUp{ID: "1", Email: "ada@example.com"})
	}))

	check(b.Run(ctx)) // runs the handlers until Ctrl-C, then drains

	// Output: welcome, ada@example.com
}
