package bus_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/store"
)

// InTx whose function ends the transaction itself says so, on every driver, in
// whatever way: what was published is handled if it was committed, and never if
// not.
func TestInTxSaysThatItsFunctionHasEndedTheTransaction(t *testing.T) {
	t.Parallel()
	text := func(statement string) func(ctx context.Context, tx *bus.Tx) error {
		return func(ctx context.Context, tx *bus.Tx) error { _, err := tx.ExecContext(ctx, statement); return err }
	}
	ways := []struct {
		name      string
		end       func(ctx context.Context, tx *bus.Tx) error
		committed bool
	}{
		{"Commit", func(_ context.Context, tx *bus.Tx) error { return tx.Commit() }, true},
		{"Rollback", func(_ context.Context, tx *bus.Tx) error { return tx.Rollback() }, false},
		{"COMMIT", text(`COMMIT`), true},
		{"ROLLBACK", text(`ROLLBACK`), false},
	}
	wentWrong := errors.New("it went wrong")
	with := func(name string, open func(t *testing.T) *sql.DB) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := bus.New(t.Context(), bus.Config{
				DB: open(t), Logger: quiet(), PollInterval: 10 * time.Millisecond,
				HeartbeatInterval: 50 * time.Millisecond, DeadAfter: time.Minute, // what is not known of is given back by a heartbeat
			})
			require.NoError(t, err)
			handled := make(chan string, 100)
			require.NoError(t, b.Handle(do("handle", func(_ context.Context, e placed) error { handled <- e.Order; return nil })))
			run(t, b)
			for _, way := range ways {
				for _, result := range []error{nil, wentWrong} {
					id := fmt.Sprintf("%s, then %v", way.name, result)
					err := b.InTx(t.Context(), func(tx *bus.Tx) error {
						if err := b.PublishTx(t.Context(), tx, placed{Order: id}); err != nil {
							return err
						}
						if err := way.end(t.Context(), tx); err != nil {
							return err
						}
						return result
					})
					if result != nil {
						require.ErrorIs(t, err, result, id)
					} else {
						require.ErrorIs(t, err, store.ErrEnded, id)
						require.ErrorIs(t, err, bus.ErrMaybeWritten, id)
					}
					require.NoError(t, b.Publish(t.Context(), placed{Order: "after " + id}))
					want := map[string]bool{"after " + id: true}
					if way.committed {
						want[id] = true
					}
					for len(want) > 0 {
						got := testkit.Receive(t, handled)
						require.Contains(t, want, got)
						delete(want, got)
					}
				}
			}
		})
	}
	for _, d := range testdb.Drivers() {
		with(d.Name, func(t *testing.T) *sql.DB { return d.Open(t, testdb.Postgres(t)) })
	}
	with("sqlite", func(t *testing.T) *sql.DB { return testdb.Open(t, testdb.SQLite(t)) })
}
