package bus_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

const patience = time.Minute

type placed struct{ Order string }

func (placed) EventName() string { return "order.placed" }

type paid struct{ Order string }

func (paid) EventName() string { return "order.paid" }

type nameless struct{}

func do[E any](name string, f func(context.Context, E) error) *handlers.Handler {
	return handlers.New(name, f, handlers.Policy{Attempts: 1, Cycles: 1})
}

func nothing[E any](name string) *handlers.Handler {
	return handlers.New(name, func(context.Context, E) error { return nil })
}

func TestOpenSaysWhatIsWrongWithAURL(t *testing.T) {
	for url, want := range map[string]string{
		"":                              "without a scheme: want postgres://",
		"app.db":                        "without a scheme: want postgres://",
		"mysql://u:secret@h/db":         `scheme "mysql" is not supported: want postgres://`,
		"sqlite:":                       "without a file",
		"postgres://u:secret@h:port/db": `scheme "postgres" does not parse: want postgres://`,
		"postgres://u:secret@127.0.0.1:1/db?sslmode=disable": "connect to the database",
		"sqlite:/no/such/directory/a.db":                     "connect to the database",
		"postgres:h/db":                                      "has no // before the host",
		"postgres://u:secret@h1,u:secret@h2/db":              "names a user after a comma: name the user once",
		"postgres://h1,u:secret@h2/db":                       "names a user after a comma",
		"sqlite:app.db?journal_mode=WAL":                     `parameter "journal_mode" would have no effect: want one of mode, immutable`,
	} {
		_, err := bus.Open(t.Context(), url, bus.Config{})
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestNewSaysWhatIsWrongWithItsConfig(t *testing.T) {
	db := testdb.Open(t, testdb.SQLite(t))
	for name, wrong := range map[string]struct {
		config bus.Config
		want   string
	}{
		"no pool":       {bus.Config{}, "Config.DB is nil: pass the application's *sql.DB, or let bus.Open make a pool"},
		"concurrency":   {bus.Config{DB: db, Concurrency: -1}, "Concurrency -1: want at least 1"},
		"poll interval": {bus.Config{DB: db, PollInterval: -1}, "PollInterval -1ns: want a positive duration"},
		"middleware":    {bus.Config{DB: db, Middleware: []message.HandlerMiddleware{nil}}, "Middleware[0] is nil"},
		"schema":        {bus.Config{DB: db, Schema: `x"; DROP`}, "lower-case letters, digits and underscores"},
		"not migrated":  {bus.Config{DB: db, SkipMigrations: true}, "has no Reprise tables and this program needs version 5: call migrations.Up"},
	} {
		_, err := bus.New(t.Context(), wrong.config)
		require.ErrorContains(t, err, wrong.want, name)
	}
	_, err := bus.Open(t.Context(), "sqlite::memory:", bus.Config{DB: db})
	require.ErrorContains(t, err, "use bus.New for a pool of your own")
	var outdated *migrations.VersionError
	_, err = bus.New(t.Context(), bus.Config{DB: db, SkipMigrations: true})
	require.ErrorAs(t, err, &outdated)
}

func TestHandleSaysWhatIsWrong(t *testing.T) {
	b := open(t, "sqlite::memory:")
	require.NoError(t, b.Handle(nothing[placed]("ship")))

	require.ErrorContains(t, b.Handle(nothing[paid]("ship")), `two handlers are named "ship" (on topics "order.placed" and "order.paid")`)
	require.ErrorContains(t, b.Handle(nothing[paid]("twice"), nothing[paid]("twice")), `two handlers are named "twice"`)
	require.ErrorContains(t, b.Handle(nothing[nameless]("h")), `bus_test.nameless has no name: give it a method EventName() string`)
	require.ErrorContains(t, b.Handle(nothing[placed]("")), "has no name: the name is its identity")
	require.ErrorContains(t, b.Handle(nil), "the handler is nil")
	require.ErrorContains(t, b.Handle(do[placed]("h", nil)), `handler "h" has no function`)
	require.ErrorContains(t, b.Handle(nothing[placed]("line\nbreak")), "without control characters")
	require.NoError(t, b.Handle(nothing[paid]("twice")), "what was refused left nothing behind")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, b.Run(ctx))
	require.ErrorContains(t, b.Handle(nothing[placed]("late")), "Handle after Run")
	require.ErrorContains(t, b.Run(t.Context()), "Run was called before")
}

func TestPublishSaysWhatIsWrong(t *testing.T) {
	b := open(t, "sqlite::memory:")
	require.ErrorContains(t, b.Publish(t.Context(), nameless{}), "EventName() string")
	require.ErrorContains(t, b.Publish(t.Context(), nil), "the event is nil")
	require.ErrorContains(t, b.Publish(t.Context(), placed{}, nameless{}), "EventName() string")
	require.ErrorContains(t, b.Publish(t.Context(), unmarshalable{}), "unsupported type")
	require.ErrorContains(t, b.PublishTx(t.Context(), nil, placed{}), "transaction is nil")
	require.ErrorContains(t, b.PublishTx(t.Context(), (*sql.Tx)(nil), placed{}), "transaction is nil")
	require.ErrorContains(t, b.PublishTx(t.Context(), (*sqlx.Tx)(nil), placed{}), "transaction is nil")
	require.NoError(t, b.Publish(t.Context()))
	events := 0
	require.NoError(t, b.DB().QueryRow(`SELECT count(*) FROM reprise_events`).Scan(&events))
	require.Zero(t, events)
}

type unmarshalable struct{ C chan int }

func (unmarshalable) EventName() string { return "unmarshalable" }

// Several topics in one call are one transaction.
func TestEventsOfSeveralTopicsArePublishedTogether(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		require.NoError(t, b.Handle(nothing[placed]("ship"), nothing[paid]("book")))
		require.NoError(t, b.Publish(t.Context(), placed{"1"}, &paid{"1"}, placed{"2"}))
		runs, err := b.Store().Runs(t.Context(), store.Filter{})
		require.NoError(t, err)
		require.Len(t, runs, 3)

		require.Error(t, b.Publish(t.Context(), placed{"3"}, badTopic{}))
		runs, err = b.Store().Runs(t.Context(), store.Filter{})
		require.NoError(t, err)
		require.Len(t, runs, 3)
	})
}

type badTopic struct{}

func (badTopic) EventName() string { return "bad\ntopic" }

// An application's own pool, through pgx's database/sql driver; its Watermill
// handlers, marshaler and middleware.
func TestAWatermillApplicationMovesOver(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("pgx", testdb.Postgres(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })

	seen := make(chan string, 1)
	b, err := bus.New(t.Context(), bus.Config{
		DB:        db,
		Schema:    "events",
		Marshaler: cqrs.JSONMarshaler{GenerateName: cqrs.StructName},
		Middleware: []message.HandlerMiddleware{func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				seen <- msg.UUID
				return next(msg)
			}
		}},
		Logger: quiet(),
	})
	require.NoError(t, err)
	handled := make(chan *nameless, 1)
	require.NoError(t, b.Handle(cqrs.NewEventHandler("watermill", func(ctx context.Context, e *nameless) error {
		handled <- e
		return nil
	})))
	run(t, b)
	require.NoError(t, b.Publish(t.Context(), nameless{}))
	testkit.Receive(t, handled)
	require.NotEmpty(t, testkit.Receive(t, seen))
	require.Eventually(t, func() bool {
		runs, err := b.Store().Runs(t.Context(), store.Filter{Status: store.Success, Topic: "nameless"})
		return err == nil && len(runs) == 1
	}, patience, time.Millisecond)
	require.NoError(t, b.Close())
	require.NoError(t, db.PingContext(t.Context()), "the application's pool stays the application's")
}

// What a handler publishes under its context carries the ids of its cause.
func TestAHandlerPublishes(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		events := make(chan *message.Message, 1)
		require.NoError(t, b.Handle(
			do("pay", func(ctx context.Context, e placed) error { return b.Publish(ctx, paid(e)) }),
			do("book", func(ctx context.Context, e paid) error {
				events <- cqrs.OriginalMessageFromCtx(ctx)
				return nil
			}),
		))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		msg := testkit.Receive(t, events)
		runs, err := b.Store().Runs(t.Context(), store.Filter{Handler: "pay"})
		require.NoError(t, err)
		require.Equal(t, runs[0].EventID, msg.Metadata.Get(pubsub.CausationIDMetadata))
		require.Equal(t, runs[0].EventID, msg.Metadata.Get(pubsub.CorrelationIDMetadata))
	})
}

// On shutdown a running handler keeps its context for the grace period, and
// its end is recorded.
func TestRunDrains(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		started, finish := make(chan context.Context, 1), make(chan struct{})
		require.NoError(t, b.Handle(do("slow", func(ctx context.Context, _ placed) error {
			started <- ctx
			<-finish
			return ctx.Err()
		})))
		ctx, shutdown := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx) }()
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		handlerCtx := testkit.Receive(t, started)
		shutdown()
		require.NoError(t, b.Publish(t.Context(), placed{"2"}), "publishing goes on")
		require.NoError(t, handlerCtx.Err())
		close(finish)
		require.NoError(t, testkit.Receive(t, ended))

		runs, err := b.Store().Runs(t.Context(), store.Filter{Status: store.Success})
		require.NoError(t, err)
		require.NotEmpty(t, runs)
	})
}

func TestRunWithoutHandlersWaitsForItsContext(t *testing.T) {
	b := open(t, "sqlite::memory:")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	cancel()
	require.NoError(t, testkit.Receive(t, ended))
}

// A handler that ends because its own deadline passed has failed.
func TestAHandlersOwnDeadlineIsAFailure(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		require.NoError(t, b.Handle(do("h", func(context.Context, placed) error {
			return errors.Join(errors.New("calling the bank"), context.DeadlineExceeded)
		})))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		require.Eventually(t, func() bool {
			runs, err := b.Store().Runs(t.Context(), store.Filter{Status: store.Failed})
			return err == nil && len(runs) == 1
		}, patience, time.Millisecond)
	})
}

// ---

func open(t *testing.T, url string) *bus.Bus {
	t.Helper()
	return openWith(t, url, bus.Config{})
}

func openWith(t *testing.T, url string, config bus.Config) *bus.Bus {
	t.Helper()
	config.Logger = quiet()
	b, err := bus.Open(t.Context(), url, config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

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

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// One handler hangs and one panics: nobody else waits for them.
func TestAHandlerThatHangsOrPanicsDelaysNoOther(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		const n = 30
		enough := make(chan struct{})
		defer close(enough)
		require.NoError(t, b.Handle(
			do("hangs", func(context.Context, placed) error { <-enough; return nil }),
			do("panics", func(context.Context, placed) error { panic("no") }),
			nothing[placed]("ships"),
			nothing[paid]("books"),
		))
		run(t, b)
		for range n {
			require.NoError(t, b.Publish(t.Context(), placed{"1"}))
			require.NoError(t, b.InTx(t.Context(), func(tx *bus.Tx) error { return b.PublishTx(t.Context(), tx, paid{"1"}) }))
		}
		for _, want := range []store.Filter{
			{Handler: "ships", Status: store.Success},
			{Handler: "books", Status: store.Success},
			{Handler: "panics", Status: store.Failed},
			{Handler: "hangs", Status: store.Pending},
		} {
			require.Eventually(t, func() bool {
				runs, err := b.Store().Runs(t.Context(), want)
				return err == nil && len(runs) == n
			}, patience, time.Millisecond, "%v", want)
		}
	})
}

type nilError struct{ s string }

func (n *nilError) Error() string { return n.s }

// A typed nil is no success, and its slot is free again.
func TestAnErrorThatPanicsKeepsNoSlot(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		require.NoError(t, b.Handle(handlers.New("h", func(_ context.Context, e placed) error {
			if e.Order == "1" {
				var broken *nilError
				return broken
			}
			return nil
		}, handlers.Policy{Attempts: 1, Cycles: 1, Concurrency: 1})))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		require.NoError(t, b.Publish(t.Context(), placed{"2"}))
		for _, want := range []store.Status{store.Failed, store.Success} {
			require.Eventually(t, func() bool {
				runs, err := b.Store().Runs(t.Context(), store.Filter{Status: want})
				return err == nil && len(runs) == 1
			}, patience, time.Millisecond, want)
		}
	})
}

type numbered struct{ ID, Text string }

func (numbered) EventName() string { return "numbered" }
func (n numbered) EventID() string { return n.ID }

// Whoever does not know whether a publish was written publishes again.
func TestAnEventWithAnIDIsWrittenOnce(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		require.NoError(t, b.Handle(nothing[numbered]("h")))
		for range 3 {
			require.NoError(t, b.Publish(t.Context(), numbered{"1", "same"}))
		}
		require.NoError(t, b.Publish(t.Context(), numbered{"2", "same"}, numbered{Text: "any"}))
		runs, err := b.Store().Runs(t.Context(), store.Filter{})
		require.NoError(t, err)
		require.Len(t, runs, 3)
		require.Equal(t, "1", runs[2].EventID)
		require.Equal(t, "2", runs[1].EventID)
		require.NotEmpty(t, runs[0].EventID)
		require.ErrorIs(t, b.Publish(t.Context(), numbered{"1", "another"}), store.ErrDuplicateID)
	})
}
