package middleware_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

const patience = time.Minute

// transport is an existing Pub/Sub that Record is added to.
type transport struct {
	publisher  message.Publisher
	subscriber message.Subscriber
	source     string // as recorded
	stops      bool   // a nack blocks what comes after
}

// onEveryTransport runs f with a router of its own over GoChannel, over the
// stock watermill-sql subscriber and over Reprise's own, and a store.
// Reprise's does not try again.
func onEveryTransport(t *testing.T, f func(t *testing.T, st *store.Store, tr transport)) {
	t.Helper()
	tryingOnEveryTransport(t, 1, f)
}

// tryingOnEveryTransport lets Reprise's subscriber try that often.
func tryingOnEveryTransport(t *testing.T, attempts int, f func(t *testing.T, st *store.Store, tr transport)) {
	t.Run("gochannel", func(t *testing.T) {
		testdb.Each(t, func(t *testing.T, url string) {
			ch := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 100, Persistent: true}, watermill.NopLogger{})
			f(t, testkit.OpenStore(t, url), transport{ch, ch, "gochannel.GoChannel", true})
		})
	})
	t.Run("watermill-sql", func(t *testing.T) {
		t.Parallel()
		url := testdb.Postgres(t)
		db := testdb.Open(t, url)
		pub, err := wsql.NewPublisher(db, wsql.PublisherConfig{SchemaAdapter: wsql.DefaultPostgreSQLSchema{}, AutoInitializeSchema: true}, watermill.NopLogger{})
		require.NoError(t, err)
		sub, err := wsql.NewSubscriber(db, wsql.SubscriberConfig{
			ConsumerGroup: "group", SchemaAdapter: wsql.DefaultPostgreSQLSchema{}, OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{},
			InitializeSchema: true, PollInterval: 10 * time.Millisecond, ResendInterval: 10 * time.Millisecond,
		}, watermill.NopLogger{})
		require.NoError(t, err)
		f(t, testkit.OpenStore(t, url), transport{pub, sub, "sql.Subscriber", true})
	})
	t.Run("reprise", func(t *testing.T) {
		testdb.Each(t, func(t *testing.T, url string) {
			st := testkit.OpenStore(t, url)
			ps, err := pubsub.New(st, pubsub.Config{GracePeriod: time.Second, Logger: quiet()})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, ps.Close()) })
			f(t, st, transport{ps.Publisher(), ps.Subscriber("handler", handlers.Policy{Attempts: attempts, Cycles: 1, Backoff: handlers.Backoff{Initial: time.Millisecond}}), store.SourcePublish, false})
		})
	})
}

func TestPendingIsCommittedBeforeTheHandlerAndSuccessAfter(t *testing.T) {
	onEveryTransport(t, func(t *testing.T, st *store.Store, tr transport) {
		during := make(chan store.Run, 1)
		route(t, st, tr, func(msg *message.Message) error {
			found, err := st.Runs(context.WithoutCancel(msg.Context()), store.Filter{EventID: msg.UUID})
			if err != nil || len(found) != 1 {
				return errors.Join(err, errors.New("the run is not there"))
			}
			during <- found[0]
			return nil
		})
		publish(t, tr, "1", `{"a": 1,  "a": 2}`)

		run := testkit.Receive(t, during)
		require.Equal(t, store.Pending, run.Status)
		require.Equal(t, 1, run.Attempt)
		require.False(t, run.StartedAt.IsZero())
		require.True(t, run.DueAt.IsZero(), "it is leased")

		run = testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		require.Equal(t, "handler", run.Handler)
		require.False(t, run.FinishedAt.IsZero())
		event, err := st.Event(t.Context(), "topic", "1")
		require.NoError(t, err)
		require.Equal(t, `{"a": 1,  "a": 2}`, string(event.Payload))
		require.Equal(t, "value", event.Metadata["name"])
		require.Equal(t, tr.source, event.Source)
	})
}

// Each way to fail ends as FAILED of its kind, with all that is known.
func TestEachWayToFailHasItsKind(t *testing.T) {
	wentWrong := errors.New("it went wrong")
	for name, failing := range map[string]struct {
		handle  message.NoPublishHandlerFunc
		kind    store.Kind
		message string
		stack   bool
	}{
		"error":               {func(*message.Message) error { return wentWrong }, store.KindError, "it went wrong", false},
		"panic":               {func(*message.Message) error { panic("it was too much") }, store.KindPanic, "panic: it was too much", true},
		"panic with an error": {func(*message.Message) error { panic(wentWrong) }, store.KindPanic, "panic: it went wrong", true},
		"panic under Watermill's Recoverer": {
			wrap(wmiddleware.Recoverer, func(*message.Message) error { panic("it was too much") }), store.KindPanic, "panic: it was too much", true,
		},
		"goexit": {func(*message.Message) error { runtime.Goexit(); return nil }, store.KindPanic, "panic: the handler called runtime.Goexit", true},
		"undecodable": {
			handlers.Func(cqrs.NewEventHandler("handler", func(context.Context, *struct{ N int }) error { return nil }), cqrs.JSONMarshaler{}),
			store.KindUndecodable, "event 1 does not decode into *struct { N int }: json: cannot unmarshal array", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEveryTransport(t, func(t *testing.T, st *store.Store, tr transport) {
				failed := make(chan struct{}, 1)
				healed := make(chan struct{})
				route(t, st, tr, func(msg *message.Message) error {
					select {
					case <-healed:
						return nil
					case failed <- struct{}{}:
					default:
						<-healed // a transport that delivers again waits here, so that FAILED can be seen
						return nil
					}
					return failing.handle(msg)
				})
				publish(t, tr, "1", `["not what it takes"]`)
				testkit.Receive(t, failed)

				var attempt store.Attempt
				require.Eventually(t, func() bool {
					found, err := st.Runs(t.Context(), store.Filter{EventID: "1"})
					require.NoError(t, err)
					if len(found) == 0 {
						return false
					}
					attempts, err := st.Attempts(t.Context(), found[0].ID)
					require.NoError(t, err)
					if len(attempts) > 0 {
						attempt = attempts[0]
					}
					return len(attempts) > 0
				}, patience, time.Millisecond)
				require.Equal(t, failing.kind, attempt.Kind)
				require.Contains(t, attempt.Message, failing.message)
				require.NotContains(t, attempt.Message, "goroutine ", "the stack is not the message")
				require.Equal(t, failing.stack, attempt.Stack != "")
				if failing.stack {
					require.Contains(t, attempt.Stack, "record_test.go")
				}
				require.Equal(t, 1, attempt.Attempt)
				require.False(t, attempt.FinishedAt.Before(attempt.StartedAt))
				if !tr.stops {
					run := testkit.WaitForRun(t, st, store.Filter{Status: store.Failed})
					require.Equal(t, failing.kind, run.ErrorKind)
				}
				close(healed)
			})
		})
	}
}

// On a transport that delivers again after a nack, that is another attempt of
// the same run.
func TestARedeliveryIsAnotherAttempt(t *testing.T) {
	onEveryTransport(t, func(t *testing.T, st *store.Store, tr transport) {
		if !tr.stops {
			return // Reprise's own makes it due by replay, not by the nack
		}
		calls := make(chan struct{}, 10)
		route(t, st, tr, func(*message.Message) error {
			calls <- struct{}{}
			if len(calls) < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		publish(t, tr, "1", "{}")
		run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		require.Equal(t, 3, run.Attempt)
		require.Empty(t, run.Error)
		attempts, err := st.Attempts(t.Context(), run.ID)
		require.NoError(t, err)
		require.Len(t, attempts, 2)
	})
}

// A message that comes again after its success is acked, not handled.
func TestASuccessIsNotRepeated(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ch := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
		tr := transport{publisher: ch, subscriber: ch}
		handled := make(chan string, 10)
		route(t, st, tr, func(msg *message.Message) error {
			handled <- msg.UUID
			return nil
		})
		publish(t, tr, "1", "{}")
		require.Equal(t, "1", testkit.Receive(t, handled))
		testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		publish(t, tr, "1", "{}")
		publish(t, tr, "2", "{}")
		require.Equal(t, "2", testkit.Receive(t, handled))
	})
}

// A handler whose messages could not be published runs again: its success was
// not the whole story.
func TestWhatAHandlerReturnsIsNotLost(t *testing.T) {
	tryingOnEveryTransport(t, 2, func(t *testing.T, st *store.Store, tr transport) {
		router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, watermill.NopLogger{})
		require.NoError(t, err)
		router.AddMiddleware(middleware.Record(st))
		out := &failOnce{published: make(chan string, 10)}
		router.AddHandler("handler", "topic", tr.subscriber, "out", out, func(msg *message.Message) ([]*message.Message, error) {
			return message.Messages{message.NewMessage("out-of-"+msg.UUID, msg.Payload)}, nil
		})
		runRouter(t, router)
		publish(t, tr, "1", "{}")
		require.Equal(t, "out-of-1", testkit.Receive(t, out.published))
		testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
	})
}

type failOnce struct {
	failed    bool
	published chan string
}

func (f *failOnce) Publish(_ string, messages ...*message.Message) error {
	if !f.failed {
		f.failed = true
		return errors.New("not this time")
	}
	f.published <- messages[0].UUID
	return nil
}

func (f *failOnce) Close() error { return nil }

// A router that passes a message on, under its UUID, has a run on each topic.
func TestAMessageThatIsPassedOnHasItsOwnRun(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ch := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		router.AddMiddleware(middleware.Record(st))
		router.AddHandler("pass-on", "topic", ch, "next", ch, message.PassthroughHandler)
		handled := make(chan string, 1)
		router.AddConsumerHandler("handle", "next", ch, func(msg *message.Message) error {
			handled <- msg.UUID
			return nil
		})
		runRouter(t, router)
		publish(t, transport{publisher: ch}, "1", "{}")
		require.Equal(t, "1", testkit.Receive(t, handled))
		require.Eventually(t, func() bool {
			found, err := st.Runs(t.Context(), store.Filter{Status: store.Success})
			require.NoError(t, err)
			return len(found) == 2
		}, patience, time.Millisecond)
	})
}

// Without a record there is no run: the handler is not called, the message
// nacked.
func TestWithoutTheDatabaseTheHandlerIsNotCalled(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		require.NoError(t, st.DB().Close())
		record := middleware.Record(st)(func(*message.Message) ([]*message.Message, error) {
			t.Error("the handler was called")
			return nil, nil
		})
		_, err := record(inRouter("1"))
		require.ErrorContains(t, err, "database is closed")
	})
}

func TestRecordNeedsARouter(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		record := middleware.Record(testkit.OpenStore(t, url))(message.PassthroughHandler)
		_, err := record(message.NewMessage("1", nil))
		require.ErrorContains(t, err, "use Record as a middleware of Watermill's router")
	})
}

// What the handler returned goes on to the outer middleware as it is.
func TestTheErrorStaysTheHandlers(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		wentWrong := errors.New("it went wrong")
		got := make(chan error, 1)
		ch := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		router.AddMiddleware(func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				_, err := next(msg)
				got <- err
				return nil, nil
			}
		}, middleware.Record(testkit.OpenStore(t, url)))
		router.AddConsumerHandler("handler", "topic", ch, func(*message.Message) error { return wentWrong })
		runRouter(t, router)
		publish(t, transport{publisher: ch}, "1", "{}")
		require.True(t, testkit.Receive(t, got) == wentWrong) //nolint:errorlint // the very error
	})
}

// ---

func route(t *testing.T, st *store.Store, tr transport, handle message.NoPublishHandlerFunc) {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddMiddleware(middleware.Record(st))
	router.AddConsumerHandler("handler", "topic", tr.subscriber, handle)
	runRouter(t, router)
}

func runRouter(t *testing.T, router *message.Router) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- router.Run(context.Background()) }()
	<-router.Running()
	t.Cleanup(func() {
		require.NoError(t, router.Close())
		require.NoError(t, <-ended)
	})
}

func publish(t *testing.T, tr transport, id, payload string) {
	t.Helper()
	msg := message.NewMessage(id, []byte(payload))
	msg.Metadata.Set("name", "value")
	require.NoError(t, tr.publisher.Publish("topic", msg))
}

// inRouter is a message as the handler "handler" would get it from a router.
func inRouter(id string) *message.Message {
	got := make(chan *message.Message, 1)
	ch := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	router, _ := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	router.AddConsumerHandler("handler", "topic", ch, func(msg *message.Message) error {
		got <- msg
		return nil
	})
	go func() { _ = router.Run(context.Background()) }()
	<-router.Running()
	_ = ch.Publish("topic", message.NewMessage(id, []byte("{}")))
	msg := <-got
	_ = router.Close()
	ctx := context.WithoutCancel(msg.Context())
	msg = msg.Copy()
	msg.SetContext(ctx)
	return msg
}

func wrap(m message.HandlerMiddleware, h message.NoPublishHandlerFunc) message.NoPublishHandlerFunc {
	wrapped := m(func(msg *message.Message) ([]*message.Message, error) { return nil, h(msg) })
	return func(msg *message.Message) error {
		_, err := wrapped(msg)
		return err
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// What a stranger sends is recorded and handled, whatever characters its id, its key
// and its metadata have: nobody can stop a topic with a message.
func TestAMessageThatNoDatabaseKeepsAsItIsIsHandled(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ch := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 100, Persistent: true}, watermill.NopLogger{})
		var calls atomic.Int64
		route(t, st, transport{ch, ch, "gochannel.GoChannel", true}, func(msg *message.Message) error {
			if calls.Add(1) == 1 {
				return errors.New("not yet") // and comes back as the same
			}
			return nil
		})
		msg := message.NewMessage("nul\x00 and \xff", []byte("x"))
		msg.Metadata.Set(store.KeyMetadata, "key\x00")
		msg.Metadata.Set("not\xff", "UTF-8\xfe")
		require.NoError(t, ch.Publish("topic", msg))
		run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		require.Equal(t, 2, run.Attempt)
		e, err := st.Event(t.Context(), "topic", run.EventID)
		require.NoError(t, err)
		require.Equal(t, "UTF-8\uFFFD", e.Metadata["not\uFFFD"])
		require.EqualValues(t, 2, calls.Load())
	})
}
