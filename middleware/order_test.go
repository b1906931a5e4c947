package middleware_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
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

// What a middleware around Record calls again is another attempt of the run.
func TestRetryOutsideRecordIsAnotherAttempt(t *testing.T) {
	for name, reset := range map[string]bool{"context kept": false, "context reset": true} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				ch := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
				retry := wmiddleware.Retry{MaxRetries: 1, InitialInterval: time.Millisecond, ResetContextOnRetry: reset}
				var calls atomic.Int64
				order(t, ch, func(msg *message.Message) error {
					delivery, _ := handlers.DeliveryOf(msg)
					require.EqualValues(t, calls.Add(1), delivery.Run().Attempt)
					if delivery.Run().Attempt == 1 {
						return errors.New("not yet")
					}
					return nil
				}, retry.Middleware, middleware.Record(st))
				publish(t, transport{publisher: ch}, "1", "{}")
				run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
				require.Equal(t, 2, run.Attempt)
				attempts, err := st.Attempts(t.Context(), run.ID)
				require.NoError(t, err)
				require.Len(t, attempts, 1)
			})
		})
	}
}

// On Reprise's own subscriber the policy decides when there is another attempt:
// nobody calls the handler for one that has ended.
func TestRetryOutsideRecordDoesNotCallForAnAttemptThatHasEnded(t *testing.T) {
	onEachSubscriber(t, func(t *testing.T, st *store.Store, ps *pubsub.PubSub, sub subscriberOf) {
		retry := wmiddleware.Retry{MaxRetries: 2, InitialInterval: time.Millisecond}
		var calls atomic.Int64
		order(t, sub("handler", soonAgain), func(msg *message.Message) error {
			delivery, _ := handlers.DeliveryOf(msg)
			require.EqualValues(t, calls.Add(1), delivery.Run().Attempt)
			if delivery.Run().Attempt < 3 {
				return errors.New("not yet")
			}
			return nil
		}, retry.Middleware, middleware.Record(st))
		publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
		require.Equal(t, 3, testkit.WaitForRun(t, st, store.Filter{Status: store.Success}).Attempt)
		require.EqualValues(t, 3, calls.Load())
	})
}

// Whoever acknowledges a message before its handler has ended, and wherever, does
// not decide the run.
func TestAnAckBeforeTheEndIsNoSuccess(t *testing.T) {
	for name, outside := range map[string]bool{"InstantAck outside Record": true, "InstantAck inside Record": false} {
		t.Run(name, func(t *testing.T) {
			onEachSubscriber(t, func(t *testing.T, st *store.Store, ps *pubsub.PubSub, sub subscriberOf) {
				around := []message.HandlerMiddleware{middleware.Record(st), wmiddleware.InstantAck}
				if outside {
					around = []message.HandlerMiddleware{wmiddleware.InstantAck, settling, middleware.Record(st)}
				}
				started, end := make(chan struct{}), make(chan struct{})
				order(t, sub("handler", onceOnly), func(*message.Message) error {
					close(started)
					<-end
					return errors.New("failed after the ack")
				}, around...)
				publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
				testkit.Receive(t, started)
				require.Equal(t, store.Pending, testkit.WaitForRun(t, st, store.Filter{Status: store.Pending}).Status)
				close(end)
				require.Equal(t, "failed after the ack", testkit.WaitForRun(t, st, store.Filter{Status: store.Failed}).Error)
			})
		})
	}
}

// settling gives whoever waits for acks the time to hear of one.
func settling(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		delivery, _ := handlers.DeliveryOf(msg)
		for deadline := time.Now().Add(100 * time.Millisecond); time.Now().Before(deadline) && !delivery.Acknowledged(); {
			time.Sleep(time.Millisecond)
		}
		return next(msg)
	}
}

func TestANackByTheHandlerIsAFailedAttempt(t *testing.T) {
	tryingOnEveryTransport(t, 2, func(t *testing.T, st *store.Store, tr transport) {
		var calls atomic.Int64
		route(t, st, tr, func(msg *message.Message) error {
			if calls.Add(1) == 1 {
				msg.Nack()
			}
			return nil
		})
		publish(t, tr, "1", "{}")
		run := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		require.Equal(t, 2, run.Attempt)
		attempts, err := st.Attempts(t.Context(), run.ID)
		require.NoError(t, err)
		require.Len(t, attempts, 1)
		// A foreign transport may bring it again before the handler has returned.
		require.Contains(t, []string{handlers.ErrNacked.Error(), "the message was delivered again before the handler had ended"}, attempts[0].Message)
	})
}

// The run ends when what the handler returned is published, and not before.
func TestARunEndsWhenWhatItsHandlerReturnedIsPublished(t *testing.T) {
	onEachSubscriber(t, func(t *testing.T, st *store.Store, ps *pubsub.PubSub, sub subscriberOf) {
		router := newRouter(t)
		router.AddMiddleware(middleware.Record(st))
		out := &gate{failOnce: failOnce{published: make(chan string, 10)}, reached: make(chan *message.Message, 10), open: make(chan struct{})}
		policy := soonAgain
		policy.Concurrency = 1
		router.AddHandler("handler", "topic", sub("handler", policy), "out", out, func(msg *message.Message) ([]*message.Message, error) {
			return message.Messages{message.NewMessage("out-of-"+msg.UUID, msg.Payload)}, nil
		})
		runRouter(t, router)
		publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
		msg := testkit.Receive(t, out.reached)
		require.Equal(t, "1", msg.Metadata.Get(pubsub.CausationIDMetadata), "also for a publisher that is not Reprise's")
		require.Equal(t, "1", msg.Metadata.Get(pubsub.CorrelationIDMetadata))
		require.Equal(t, store.Pending, testkit.WaitForRun(t, st, store.Filter{Status: store.Pending}).Status)
		close(out.open)
		require.Equal(t, "out-of-1", testkit.Receive(t, out.published))
		require.Equal(t, 2, testkit.WaitForRun(t, st, store.Filter{Status: store.Success}).Attempt, "the first publish failed")
		publish(t, transport{publisher: ps.Publisher()}, "2", "{}")
		require.Equal(t, "out-of-2", testkit.Receive(t, out.published), "the slot is free")
	})
}

// gate is a publisher that waits until it is open, and then fails once.
type gate struct {
	failOnce
	reached chan *message.Message
	open    chan struct{}
}

func (g *gate) Publish(topic string, messages ...*message.Message) error {
	g.reached <- messages[0]
	<-g.open
	return g.failOnce.Publish(topic, messages...)
}

// With the ack sent already, nobody would know that publishing has failed.
func TestWhatIsReturnedAfterAnAckIsRefused(t *testing.T) {
	onEachSubscriber(t, func(t *testing.T, st *store.Store, ps *pubsub.PubSub, sub subscriberOf) {
		router := newRouter(t)
		router.AddMiddleware(middleware.Record(st), wmiddleware.InstantAck)
		out := &failOnce{failed: true, published: make(chan string, 10)}
		router.AddHandler("handler", "topic", sub("handler", soonAgain), "out", out, func(msg *message.Message) ([]*message.Message, error) {
			return message.Messages{message.NewMessage("out-of-"+msg.UUID, msg.Payload)}, nil
		})
		runRouter(t, router)
		publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
		run := testkit.WaitForRun(t, st, store.Filter{Status: store.Failed})
		require.Equal(t, store.KindPermanent, run.ErrorKind)
		require.Contains(t, run.Error, "InstantAck")
		require.Empty(t, out.published)
	})
}

// A context that GoChannel preserves brings the outer handler's run and
// transaction to a handler that they are not for.
func TestAPreservedContextBringsNobodyElsesRun(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openEffects(t, url)
		ps, err := pubsub.New(st, pubsub.Config{Logger: quiet(), PollInterval: 20 * time.Millisecond})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, ps.Close()) })
		inner := gochannel.NewGoChannel(gochannel.Config{PreserveContext: true}, watermill.NopLogger{})
		router := newRouter(t)
		router.AddMiddleware(middleware.Record(st))
		outerFailed, innerContext := make(chan struct{}), make(chan context.Context, 10)
		outer := router.AddConsumerHandler("outer", "topic", ps.Subscriber("outer", onceOnly), func(msg *message.Message) error {
			_, ok := handlers.Tx(msg.Context())
			require.True(t, ok)
			passed := msg.Copy()
			passed.SetContext(msg.Context())
			return errors.Join(inner.Publish("inner", passed), errors.New("outer has failed"))
		})
		outer.AddMiddleware(func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				defer close(outerFailed)
				return next(msg)
			}
		}, middleware.Transaction(st))
		router.AddConsumerHandler("inner", "inner", inner, func(msg *message.Message) error {
			<-outerFailed
			innerContext <- msg.Context()
			return nil
		})
		runRouter(t, router)
		publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
		failed := testkit.WaitForRun(t, st, store.Filter{Status: store.Failed})
		require.Equal(t, "outer", failed.Handler)
		succeeded := testkit.WaitForRun(t, st, store.Filter{Status: store.Success})
		require.Equal(t, "inner", succeeded.Handler)
		ctx := testkit.Receive(t, innerContext)
		_, ok := handlers.Tx(ctx)
		require.False(t, ok, "the outer handler's transaction")
		delivery, ok := handlers.DeliveryFrom(ctx)
		require.True(t, ok)
		require.Equal(t, succeeded.ID, delivery.Run().ID)
		require.NoError(t, ctx.Err(), "it ends by itself")
	})
}

// Inside Record, a poison queue does not make a failure a success; outside, on a
// foreign subscriber, the run is FAILED and the message poisoned. What comes back
// from there to its handler is an event of its own.
func TestAPoisonedMessageIsAFailure(t *testing.T) {
	for name, outside := range map[string]bool{"PoisonQueue outside Record": true, "PoisonQueue inside Record": false} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				ch := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
				poison, err := wmiddleware.PoisonQueue(ch, "poison")
				require.NoError(t, err)
				around := []message.HandlerMiddleware{middleware.Record(st), poison}
				if outside {
					around = []message.HandlerMiddleware{poison, middleware.Record(st)}
				}
				var calls atomic.Int64
				order(t, ch, func(msg *message.Message) error {
					if calls.Add(1) <= 2 {
						return errors.New("broken")
					}
					return nil
				}, around...)
				poisoned, err := ch.Subscribe(t.Context(), "poison")
				require.NoError(t, err)
				publish(t, transport{publisher: ch}, "1", "{}")
				for range 2 {
					msg := testkit.Receive(t, poisoned)
					msg.Ack()
					retry := msg.Copy()
					retry.Metadata.Set("retries", retry.Metadata.Get("retries")+"1")
					require.NoError(t, ch.Publish("topic", retry))
				}
				require.NotEqual(t, "1", testkit.WaitForRun(t, st, store.Filter{Status: store.Success}).EventID)
				var failed []store.Run
				require.Eventually(t, func() bool { // inside Record, a message is poisoned before its run ends
					failed, err = st.Runs(t.Context(), store.Filter{Status: store.Failed})
					require.NoError(t, err)
					return len(failed) == 2
				}, patience, time.Millisecond)
				require.Equal(t, "1", failed[1].EventID)
				repeat, err := st.Event(t.Context(), "topic", failed[0].EventID)
				require.NoError(t, err)
				require.Equal(t, "1", repeat.Metadata[store.RepeatsMetadata])
				for _, run := range failed {
					require.Contains(t, run.Error, "broken")
				}
			})
		})
	}
}

// ---

type subscriberOf func(handler string, policy handlers.Policy) *pubsub.Subscriber

// onEachSubscriber runs f with each of Reprise's subscribers, on every database.
func onEachSubscriber(t *testing.T, f func(t *testing.T, st *store.Store, ps *pubsub.PubSub, sub subscriberOf)) {
	t.Helper()
	for name, of := range map[string]func(ps *pubsub.PubSub) subscriberOf{
		"Subscriber":         func(ps *pubsub.PubSub) subscriberOf { return ps.Subscriber },
		"RecordedSubscriber": func(ps *pubsub.PubSub) subscriberOf { return ps.RecordedSubscriber },
	} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				ps, err := pubsub.New(st, pubsub.Config{Logger: quiet(), PollInterval: 20 * time.Millisecond})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, ps.Close()) })
				f(t, st, ps, of(ps))
			})
		})
	}
}

func newRouter(t *testing.T) *message.Router {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, watermill.NopLogger{})
	require.NoError(t, err)
	return router
}

// order runs the handler "handler" of "topic" in the middleware, the first around
// all others.
func order(t *testing.T, subscriber message.Subscriber, handle message.NoPublishHandlerFunc, around ...message.HandlerMiddleware) {
	t.Helper()
	router := newRouter(t)
	router.AddMiddleware(around...)
	router.AddConsumerHandler("handler", "topic", subscriber, handle)
	runRouter(t, router)
}
