package reprisetest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/reprisetest"
	"github.com/reprise-bus/reprise/store"
)

// application is what an application may call of a bus.
type application interface {
	Handle(hs ...cqrs.EventHandler) error
	Publish(ctx context.Context, events ...any) error
	PublishTx(ctx context.Context, tx pubsub.Tx, events ...any) error
	InTx(ctx context.Context, f func(tx *bus.Tx) error) error
}

var _, _ application = (*bus.Bus)(nil), (*reprisetest.Bus)(nil)

func TestPublishReturnsWhenTheHandlersHaveRun(t *testing.T) {
	t.Parallel()
	var got []string
	note := func(name string) *handlers.Handler {
		return handlers.New(name, func(_ context.Context, e placed) error {
			got = append(got, name+" "+e.ID)
			return nil
		})
	}
	b := reprisetest.NewBus(t, note("mail"), note("books"), handlers.New("other", func(context.Context, UserSignedUp) error {
		t.Error("it is another topic's")
		return nil
	}))
	require.NoError(t, b.Publish(t.Context(), placed{"1"}, &placed{"2"}))
	require.Equal(t, []string{"mail 1", "books 1", "mail 2", "books 2"}, got)
	require.Equal(t, []placed{{"1"}, {"2"}}, reprisetest.Published[placed](b))
	require.Equal(t, []*placed{{"1"}, {"2"}}, reprisetest.Published[*placed](b))
	require.Empty(t, reprisetest.Published[UserSignedUp](b))
}

func TestRequirePublishedReturnsTheOnlyOne(t *testing.T) {
	t.Parallel()
	b := reprisetest.NewBus(t)
	require.Contains(t, failures(t, func(t testing.TB) { reprisetest.RequirePublished[placed](t, b) }),
		`0 events "order.placed" were published, want one; published was nothing`)
	require.NoError(t, b.Publish(t.Context(), placed{"1"}))
	require.Equal(t, placed{"1"}, reprisetest.RequirePublished[placed](t, b))
	require.Equal(t, &placed{"1"}, reprisetest.RequirePublished[*placed](t, b))
	require.NoError(t, b.Publish(t.Context(), UserSignedUp{}, placed{"2"}))
	require.Contains(t, failures(t, func(t testing.TB) { reprisetest.RequirePublished[placed](t, b) }),
		`2 events "order.placed" were published, want one; published was 2 "order.placed", 1 "user.signed_up"`)
	require.Contains(t, failures(t, func(t testing.TB) { reprisetest.RequirePublished[int](t, reprisetest.NewBus(t)) }), "event *int has no name")
}

func TestARunThatIsFailedFailsTheTest(t *testing.T) {
	t.Parallel()
	message := failures(t, func(t testing.TB) {
		b := reprisetest.NewBus(t, handlers.New("mail", func(context.Context, placed) error { panic("no server") }), nothing[placed]("books"))
		require.NoError(t, b.Publish(t.Context(), placed{"1"}), "as with the bus")
	})
	require.Contains(t, message, `the run of handler "mail" on event`)
	require.Contains(t, message, "is FAILED after attempt 15: panic: panic: no server")
	require.Contains(t, message, "bus_test.go:", "where it panicked")
	require.NotContains(t, message, "books")
}

func TestARunThatIsToFailDoesNotFailTheTest(t *testing.T) {
	t.Parallel()
	message := failures(t, func(t testing.TB) {
		b := reprisetest.NewBus(t, handlers.New("mail", func(_ context.Context, e placed) error { return handlers.Permanent(errors.New("no " + e.ID)) }))
		require.NoError(t, b.Publish(t.Context(), placed{"1"}, placed{"2"}, placed{"3"}))
		for _, want := range []string{"no 1", "no 2"} {
			result := reprisetest.RequireFailed(t, b, "mail")
			require.EqualError(t, result.Err, want)
			require.Equal(t, store.Failed, result.Status)
			require.Equal(t, store.KindPermanent, result.Attempts[0].Kind)
		}
		reprisetest.RequireFailed(t, b, "books")
	})
	require.Contains(t, message, `no run of handler "books" is FAILED; of mail there are some`)
	require.Contains(t, message, "permanent: no 3")
	require.NotContains(t, message, "no 1")
	require.Contains(t, failures(t, func(t testing.TB) { reprisetest.RequireFailed(t, reprisetest.NewBus(t), "mail") }), `no run of handler "mail" is FAILED`)
}

func TestAHandlerPublishesInTheNameOfItsEvent(t *testing.T) {
	t.Parallel()
	var order []string
	var first, second, third *messageIDs
	b := reprisetest.NewBus(t)
	require.NoError(t, b.Handle(
		handlers.New("grant-trial", func(ctx context.Context, e UserSignedUp) error {
			first = idsOf(ctx)
			if err := b.Publish(ctx, TrialGranted{UserID: e.ID}); err != nil {
				return err
			}
			order = append(order, "trial granted")
			return nil
		}),
		handlers.New("place", func(ctx context.Context, e TrialGranted) error {
			order = append(order, "placing")
			second = idsOf(ctx)
			return b.Publish(ctx, placed{e.UserID})
		}),
		handlers.New("mail", func(ctx context.Context, e placed) error {
			order = append(order, "mailing")
			third = idsOf(ctx)
			_, inherited := ctx.Value(key{}).(string)
			require.False(t, inherited, "a handler gets nothing of its publisher's context")
			require.NoError(t, ctx.Err())
			return nil
		}),
	))
	require.NoError(t, b.Publish(context.WithValue(t.Context(), key{}, "value"), UserSignedUp{ID: "42"}))
	require.Equal(t, []string{"trial granted", "placing", "mailing"}, order)
	require.Equal(t, placed{"42"}, reprisetest.RequirePublished[placed](t, b))
	require.Equal(t, &messageIDs{id: first.id}, first)
	require.Equal(t, &messageIDs{id: second.id, causation: first.id, correlation: first.id}, second)
	require.Equal(t, &messageIDs{id: third.id, causation: second.id, correlation: first.id}, third)
}

type key struct{}

type messageIDs struct{ id, causation, correlation string }

func idsOf(ctx context.Context) *messageIDs {
	msg := cqrs.OriginalMessageFromCtx(ctx)
	return &messageIDs{msg.UUID, msg.Metadata.Get(pubsub.CausationIDMetadata), msg.Metadata.Get(pubsub.CorrelationIDMetadata)}
}

func TestACallbackPublishesToo(t *testing.T) {
	t.Parallel()
	b := reprisetest.NewBus(t)
	require.NoError(t, b.Handle(handlers.New("mail", func(context.Context, UserSignedUp) error { return errors.New("no") }, handlers.Policy{
		Cycles: 2, OnFailure: func(ctx context.Context, run store.Run, _ error) error {
			return b.Publish(ctx, placed{fmt.Sprint("cycle ", run.Cycle)})
		},
	})))
	require.NoError(t, b.Publish(t.Context(), UserSignedUp{}))
	require.Equal(t, []placed{{"cycle 0"}, {"cycle 1"}}, reprisetest.Published[placed](b))
	reprisetest.RequireFailed(t, b, "mail")
}

func TestEventsWithoutEndAreAnError(t *testing.T) {
	t.Parallel()
	b := reprisetest.NewBus(t)
	require.NoError(t, b.Handle(handlers.New("again", func(ctx context.Context, e placed) error { return b.Publish(ctx, e) })))
	require.ErrorContains(t, b.Publish(t.Context(), placed{"1"}), `10000 events were published by handlers because of one, and there is no end: the last is "order.placed"`)
}

func TestManyPublishAtOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string]bool{}
	b := reprisetest.NewBus(t)
	require.NoError(t, b.Handle(
		handlers.New("place", func(ctx context.Context, e UserSignedUp) error { return b.Publish(ctx, placed{e.ID}) }),
		handlers.New("mail", func(_ context.Context, e placed) error {
			mu.Lock()
			defer mu.Unlock()
			got[e.ID] = true
			return nil
		}),
	))
	var publishing sync.WaitGroup
	for i := range 8 {
		publishing.Go(func() {
			id := fmt.Sprint(i)
			if err := b.Publish(t.Context(), UserSignedUp{ID: id}); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if !got[id] {
				t.Errorf("Publish returned before event %s was handled", id)
			}
		})
	}
	publishing.Wait()
	require.Len(t, reprisetest.Published[placed](b), 8)
}

// numbered is an event with an id and a key of its own.
type numbered struct{ ID, Text string }

func (numbered) EventName() string  { return "numbered" }
func (n numbered) EventID() string  { return n.ID }
func (n numbered) EventKey() string { return "key of " + n.ID }

func TestAnEventsOwnIDIsPublishedOnce(t *testing.T) {
	t.Parallel()
	calls := 0
	b := reprisetest.NewBus(t, handlers.New("mail", func(ctx context.Context, e numbered) error {
		calls++
		d, _ := handlers.DeliveryFrom(ctx)
		require.Equal(t, []string{"1", "key of 1"}, []string{d.Run().EventID, d.Run().Key})
		return nil
	}))
	require.NoError(t, b.Publish(t.Context(), numbered{"1", "a"}, numbered{"1", "a"}))
	require.NoError(t, b.Publish(t.Context(), numbered{"1", "a"}))
	require.Equal(t, 1, calls)
	require.ErrorIs(t, b.Publish(t.Context(), UserSignedUp{}, numbered{"1", "b"}), store.ErrDuplicateID)
	require.Empty(t, reprisetest.Published[UserSignedUp](b), "all or none")
}

func TestWhatCannotBePublishedOrHandledSaysWhy(t *testing.T) {
	t.Parallel()
	b := reprisetest.NewBus(t, nothing[placed]("mail"), nothing[UserSignedUp]("grant", handlers.Policy{Transactional: true}))
	require.ErrorContains(t, b.Publish(t.Context(), nil), "the event is nil")
	require.ErrorContains(t, b.Publish(t.Context(), 1), "event int has no name")
	require.ErrorContains(t, b.Publish(t.Context(), numbered{"\n", ""}), "control characters")
	require.ErrorContains(t, b.PublishTx(t.Context(), nil, placed{}), "the transaction is nil")
	require.ErrorContains(t, b.PublishTx(t.Context(), (*sql.Tx)(nil), placed{}), "the transaction is nil")
	require.ErrorContains(t, b.PublishTx(t.Context(), &bus.Tx{}, placed{}), "the transaction is nil")
	require.ErrorContains(t, b.InTx(t.Context(), nil), "With(reprisetest.WithDB(db))")
	require.ErrorContains(t, b.Publish(t.Context(), UserSignedUp{}), `handler "grant" is transactional`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, b.Publish(ctx, placed{}), context.Canceled)
	require.Empty(t, reprisetest.Published[placed](b))

	require.ErrorContains(t, b.Handle(nothing[placed]("new"), nothing[placed]("mail")), `two handlers are named "mail"`)
	require.ErrorContains(t, b.Handle(nothing[placed]("new"), nothing[placed]("new")), `two handlers are named "new"`)
	require.ErrorContains(t, b.Handle(nothing[int]("count")), "event *int has no name")
	require.ErrorContains(t, b.Handle(nothing[placed]("a\nb")), "control characters")
	require.ErrorContains(t, b.Handle(nil), "the handler is nil")
	require.Contains(t, failures(t, func(t testing.TB) { reprisetest.NewBus(t, nil) }), "the handler is nil")
}

func TestATransactionDecidesWhatWasPublished(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		db := testdb.Open(t, url)
		_, err := db.ExecContext(t.Context(), `CREATE TABLE orders (id text)`)
		require.NoError(t, err)
		b := reprisetest.NewBus(t).With(reprisetest.WithDB(db))
		var seen [][]string
		no := errors.New("no")
		granted := 0
		require.NoError(t, b.Handle(
			handlers.New("read", func(ctx context.Context, e placed) error {
				seen = append(seen, ids(t, db)) // what is committed
				return nil
			}),
			handlers.New("write", func(ctx context.Context, e UserSignedUp) error {
				tx, ok := handlers.Tx(ctx)
				require.True(t, ok)
				_, err := tx.ExecContext(ctx, tx.Rebind(`INSERT INTO orders VALUES (?)`), e.ID)
				require.NoError(t, err)
				require.NoError(t, b.PublishTx(ctx, tx, placed{e.ID}))
				if granted++; granted == 1 {
					return no
				}
				return nil
			}, handlers.Policy{Transactional: true}),
		))

		insert := func(end error) func(*bus.Tx) error {
			return func(tx *bus.Tx) error {
				if _, err := tx.ExecContext(t.Context(), tx.Rebind(`INSERT INTO orders VALUES (?)`), "in tx"); err != nil {
					return err
				}
				if err := b.PublishTx(t.Context(), tx, placed{"in tx"}); err != nil {
					return err
				}
				require.Empty(t, reprisetest.Published[placed](b), "it is not committed")
				return end
			}
		}
		require.ErrorIs(t, b.InTx(t.Context(), insert(no)), no)
		require.Empty(t, reprisetest.Published[placed](b), "it was rolled back")
		require.NoError(t, b.InTx(t.Context(), insert(nil)))
		require.Equal(t, [][]string{{"in tx"}}, seen)

		require.NoError(t, b.Publish(t.Context(), UserSignedUp{ID: "by handler"}))
		require.Equal(t, 2, granted)
		require.Equal(t, []placed{{"in tx"}, {"by handler"}}, reprisetest.Published[placed](b), "what the failed attempt published was rolled back")
		require.Equal(t, [][]string{{"in tx"}, {"by handler", "in tx"}}, seen)

		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, b.PublishTx(t.Context(), tx, TrialGranted{"of the test"}))
		require.NoError(t, tx.Rollback())
		require.Equal(t, TrialGranted{"of the test"}, reprisetest.RequirePublished[TrialGranted](t, b), "its end is not heard of")
	})
}

// One that the test fakes is as good as any.
type fakeTx struct{ pubsub.Tx }

func TestATransactionOfAnyKindWillDo(t *testing.T) {
	t.Parallel()
	b := reprisetest.NewBus(t)
	require.NoError(t, b.PublishTx(t.Context(), fakeTx{}, placed{"1"}))
	require.Equal(t, placed{"1"}, reprisetest.RequirePublished[placed](t, b))
}

func TestInATransactionAnIDIsTakenToo(t *testing.T) {
	t.Parallel()
	b := reprisetest.NewBus(t).With(reprisetest.WithDB(testdb.Open(t, testdb.SQLite(t))))
	require.NoError(t, b.InTx(t.Context(), func(tx *bus.Tx) error {
		require.NoError(t, b.PublishTx(t.Context(), tx, numbered{"1", "a"}))
		require.NoError(t, b.PublishTx(t.Context(), tx.Tx, numbered{"1", "a"}))
		require.ErrorIs(t, b.PublishTx(t.Context(), tx.Tx.Tx, numbered{"1", "b"}), store.ErrDuplicateID)
		return nil
	}))
	require.Equal(t, numbered{"1", "a"}, reprisetest.RequirePublished[numbered](t, b))
}

func TestWithDBWantsADatabase(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.Contains(t, failures(t, func(t testing.TB) { reprisetest.NewBus(t).With(reprisetest.WithDB(db)) }), "reprisetest: WithDB: connect to the database")
}

// Nobody delivers any more what the goroutine publishes, so it does so itself.
func TestWhatOutlivesItsHandlerPublishes(t *testing.T) {
	t.Parallel()
	over, published := make(chan struct{}), make(chan error)
	b := reprisetest.NewBus(t)
	handled := 0
	require.NoError(t, b.Handle(
		handlers.New("spawn", func(ctx context.Context, e UserSignedUp) error {
			go func() {
				<-over
				published <- b.Publish(context.WithoutCancel(ctx), placed{"1"})
			}()
			return nil
		}),
		handlers.New("mail", func(context.Context, placed) error { handled++; return nil }),
	))
	require.NoError(t, b.Publish(t.Context(), UserSignedUp{}))
	close(over)
	require.NoError(t, <-published)
	require.Equal(t, 1, handled)
}

// misread is not what was published on its topic.
type misread struct{ ID int }

func (misread) EventName() string { return "order.placed" }

func TestWhatIsPublishedIsReadAsItsHandlersDo(t *testing.T) {
	t.Parallel()
	message := failures(t, func(t testing.TB) {
		b := reprisetest.NewBus(t)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		reprisetest.Published[misread](b)
	})
	require.Contains(t, message, "does not decode into *reprisetest_test.misread")
}

// On SQLite, a bus would wait for the transaction that it is in.
func TestATransactionalHandlerPublishesInItsTransaction(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := reprisetest.NewBus(t).With(reprisetest.WithDB(testdb.Open(t, url)))
		var errs []error
		require.NoError(t, b.Handle(handlers.New("write", func(ctx context.Context, e placed) error {
			errs = append(errs, b.Publish(ctx, UserSignedUp{}), b.InTx(ctx, func(tx *bus.Tx) error { return nil }))
			return nil
		}, handlers.Policy{Transactional: true})))
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		require.Len(t, errs, 2)
		for _, err := range errs {
			if strings.HasPrefix(url, "sqlite:") {
				require.ErrorContains(t, err, "publish in its transaction")
			} else {
				require.NoError(t, err)
			}
		}
	})
}

func ids(t *testing.T, db *sql.DB) (ids []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT id FROM orders ORDER BY id`)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var id string
		require.NoError(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(t, rows.Err())
	return ids
}
