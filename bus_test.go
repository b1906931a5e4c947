package reprise_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

type userSignedUp struct {
	ID    string `json:"id"`
	Email string `json:"email"`
}

func (userSignedUp) EventName() string  { return "user.signed_up" }
func (e userSignedUp) EventKey() string { return e.ID }

// The story that Reprise is for, on every database and every transport: a user
// signs up, one handler fails while the other succeeds, the record shows it, and
// a replay heals it.
func TestAFailedHandlerIsOnRecordAndHealedByReplay(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *bus.Bus) {
		ctx := t.Context()
		b := open()
		_, err := b.DB().ExecContext(ctx, `CREATE TABLE users (id text PRIMARY KEY, email text, trial boolean)`)
		require.NoError(t, err)

		mailServerDown := errors.New("421 mail server is down")
		var mailWorks atomic.Bool
		require.NoError(t, b.Handle(
			handlers.New("send-welcome-email", func(ctx context.Context, e userSignedUp) error {
				if !mailWorks.Load() {
					return mailServerDown
				}
				return nil
			}, handlers.Policy{Attempts: 1, Cycles: 1}),
			handlers.New("grant-trial", func(ctx context.Context, e userSignedUp) error {
				_, err := b.DB().ExecContext(ctx, `UPDATE users SET trial = true WHERE id = $1`, e.ID)
				return err
			}),
		))
		run(t, b)

		// The event is published in the transaction that inserts the user.
		inTx(t, b, func(tx *sqlx.Tx) {
			_, err := tx.ExecContext(ctx, `INSERT INTO users (id, email) VALUES ($1, $2)`, "u1", "ada@example.com")
			require.NoError(t, err)
			require.NoError(t, b.PublishTx(ctx, tx, userSignedUp{ID: "u1", Email: "ada@example.com"}))
		})

		failed := testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "send-welcome-email", Status: store.Failed})
		require.Equal(t, store.KindError, failed.ErrorKind)
		require.Equal(t, mailServerDown.Error(), failed.Error)
		require.Equal(t, "u1", failed.Key)
		granted := testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "grant-trial", Status: store.Success})
		require.Equal(t, failed.EventID, granted.EventID)

		event, err := b.Store().Event(ctx, failed.Topic, failed.EventID)
		require.NoError(t, err)
		require.JSONEq(t, `{"id":"u1","email":"ada@example.com"}`, string(event.Payload))

		mailWorks.Store(true)
		again, err := replay.All(ctx, b.Store(), store.Filter{Handler: "send-welcome-email"}, replay.Request{By: "ops", Reason: "mail server is back"})
		require.NoError(t, err)
		require.EqualValues(t, 1, again.Taken)

		healed := testkit.WaitForRun(t, b.Store(), store.Filter{Handler: "send-welcome-email", Status: store.Success})
		require.Equal(t, failed.ID, healed.ID, "it is the same run")
		require.Equal(t, 2, healed.Attempt)
		require.Equal(t, again.ID, healed.ReplayID)
		require.Empty(t, healed.Error)

		attempts, err := b.Store().Attempts(ctx, healed.ID)
		require.NoError(t, err)
		require.Len(t, attempts, 1, "the failure stays on record")
		require.Equal(t, mailServerDown.Error(), attempts[0].Message)
		require.Equal(t, 1, attempts[0].Attempt)
	})
}

// A transaction that is rolled back publishes nothing.
func TestARolledBackPublishNeverHappened(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		require.NoError(t, b.Handle(handlers.New("h", func(context.Context, userSignedUp) error { return nil })))
		run(t, b)

		tx, err := b.DB().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, b.PublishTx(t.Context(), tx, userSignedUp{ID: "ghost"}))
		require.NoError(t, tx.Rollback())

		require.NoError(t, b.Publish(t.Context(), userSignedUp{ID: "real"}))
		require.Equal(t, "real", testkit.WaitForRun(t, b.Store(), store.Filter{Status: store.Success}).Key)
		require.Equal(t, "real", testkit.WaitForRun(t, b.Store(), store.Filter{}).Key, "the only one")
	})
}

// What was published while nobody ran is handled when somebody does.
func TestAnEventOutlivesTheProcessThatPublishedIt(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *bus.Bus) {
		handled := make(chan userSignedUp, 1)
		handle := handlers.New("h", func(_ context.Context, e userSignedUp) error {
			handled <- e
			return nil
		})
		before := open()
		require.NoError(t, before.Handle(handle))
		require.NoError(t, before.Publish(t.Context(), userSignedUp{ID: "u1"}))
		require.NoError(t, before.Close())

		after := open()
		require.NoError(t, after.Handle(handle))
		run(t, after)
		require.Equal(t, "u1", testkit.Receive(t, handled).ID)
		testkit.WaitForRun(t, after.Store(), store.Filter{Status: store.Success})
	})
}

// open returns a bus that is closed when the test ends.
func open(t *testing.T, url string, carrier *pubsub.Transport, names cqrs.CommandEventMarshaler) *bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), url, bus.Config{Transport: carrier, Marshaler: names, Logger: logger(t)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func logger(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// run runs the bus until the test ends.
func run(t *testing.T, b *bus.Bus) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
}

func inTx(t *testing.T, b *bus.Bus, f func(tx *sqlx.Tx)) {
	t.Helper()
	tx, err := b.Store().DB().BeginTxx(t.Context(), &sql.TxOptions{})
	require.NoError(t, err)
	f(tx)
	require.NoError(t, tx.Commit())
}
