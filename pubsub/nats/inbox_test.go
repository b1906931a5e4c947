package nats_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/internal/testtransport"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/nats"
	"github.com/reprise-bus/reprise/store"
)

type created struct{ N int }

func (created) EventName() string { return "created" }

// serve runs a handler in a router, as a bus does, until the test is over or
// stop is called.
func serve(t testing.TB, ps *pubsub.PubSub, transport *pubsub.Transport, st *store.Store, h *handlers.Handler) (stop func()) {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddMiddleware(middleware.Record(st))
	in := testtransport.Inbox(t, ps, transport, h.HandlerName(), h.Policy(), true)
	router.AddConsumerHandler(h.HandlerName(), "created", in, handlers.Func(h, handlers.JSON()))
	ended := make(chan error, 1)
	go func() { ended <- router.Run(t.Context()) }()
	<-router.Running()
	stop = sync.OnceFunc(func() {
		require.NoError(t, router.Close())
		require.NoError(t, testkit.Receive(t, ended))
	})
	t.Cleanup(stop)
	return stop
}

// What cannot be decoded is FAILED, and does not come back.
func TestAnUndecodableMessageFails(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		s := newServer(t)
		_, js := s.Client()
		transport := newTransport(t, nats.Config{URL: s.URL, AckWait: time.Second})
		require.NoError(t, testtransport.Publisher(t, transport).Publish("created", testtransport.Message(t, "{no JSON")))
		_, err := js.Publish(t.Context(), "created", []byte(`{"N": "a word"}`))
		require.NoError(t, err)
		serve(t, testtransport.PubSub(t, st), transport, st, handlers.New("handler", func(context.Context, created) error {
			return nil
		}, handlers.Policy{Attempts: 2, Cycles: 1, Backoff: testtransport.Again().Backoff}))
		testkit.WaitForStatus(t, st, "handler", store.Failed, 2)
		waitForAcks(t, js, "created", "handler")
		testkit.RequireCount(t, st, "handler_runs", 2)
		event, err := st.Event(t.Context(), "created", "created/2")
		require.NoError(t, err)
		require.Equal(t, "nats", event.Source)
	})
}

// A message that hangs, one that fails, and everything else.
func TestAPoisonousMessageHoldsUpNoOther(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		s := newServer(t)
		_, js := s.Client()
		transport := newTransport(t, nats.Config{URL: s.URL})
		pub := testtransport.Publisher(t, transport)
		release := make(chan struct{})
		serve(t, testtransport.PubSub(t, st), transport, st, handlers.New("handler", func(_ context.Context, e created) error {
			switch e.N {
			case 0:
				<-release
			case 1:
				panic("poison")
			}
			return nil
		}, handlers.Policy{Attempts: 1, Cycles: 1}))
		for i := range 100 {
			require.NoError(t, pub.Publish("created", testtransport.Message(t, fmt.Sprintf(`{"N": %d}`, i))))
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, 98)
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		waitForAcks(t, js, "created", "handler")
		close(release)
		testkit.WaitForStatus(t, st, "handler", store.Success, 99)
	})
}

// forgetful loses every ack, as a process does that dies between its record
// and its ack.
type forgetful struct{ message.Subscriber }

func (f forgetful) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	from, err := f.Subscriber.Subscribe(ctx, topic)
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for msg := range from {
			out <- msg.Copy()
		}
	}()
	return out, err
}

func TestWhatIsDeliveredAgainAfterACrashIsOneRun(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		s := newServer(t)
		_, js := s.Client()
		transport := newTransport(t, nats.Config{URL: s.URL, AckWait: 2 * time.Second})
		require.NoError(t, testtransport.Publisher(t, transport).Publish("created", testtransport.Message(t, `{"N": 1}`)))
		_, err := js.Publish(t.Context(), "created", []byte(`{"N": 2}`))
		require.NoError(t, err)

		sub, err := transport.Subscriber("handler")
		require.NoError(t, err)
		dies, err := testtransport.PubSub(t, st).Inbox(forgetful{sub}, "handler", testtransport.Again(), pubsub.InboxConfig{Source: "nats"})
		require.NoError(t, err)
		messages := testtransport.Subscribe(t, dies, "created")
		for range 2 {
			testkit.Receive(t, messages).Ack()
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, 2)
		require.NoError(t, dies.Close())
		info, err := waitForConsumer(t, js, "created", "handler").Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, info.NumAckPending, "nothing is acknowledged")

		serve(t, testtransport.PubSub(t, st), transport, st, handlers.New("handler", func(context.Context, created) error {
			t.Error("it is handled twice")
			return nil
		}, testtransport.Again()))
		waitForAcks(t, js, "created", "handler")
		testkit.RequireCount(t, st, "events", 2)
		testkit.RequireCount(t, st, "handler_runs", 2)
		testkit.RequireCount(t, st, "run_attempts", 0)
	})
}

// The server is stopped and started while events are published, and one of two
// processes leaves; what is not published meanwhile is published again.
func TestNothingIsLostWhenTheServerRestarts(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		const events, publishers = 600, 4
		st := testkit.OpenStore(t, url)
		s := newServer(t)
		_, js := s.Client()
		transport := newTransport(t, nats.Config{URL: s.URL, AckWait: 2 * time.Second})
		pub := testtransport.Publisher(t, transport)
		var calls [events]atomic.Int32
		h := handlers.New("handler", func(_ context.Context, e created) error {
			calls[e.N].Add(1)
			return nil
		}, testtransport.Again())
		leaves := serve(t, testtransport.PubSub(t, st), transport, st, h)
		serve(t, testtransport.PubSub(t, st), transport, st, h)

		var next, published atomic.Int32
		var publishing sync.WaitGroup
		for range publishers {
			publishing.Go(func() {
				for n := int(next.Add(1)) - 1; n < events; n = int(next.Add(1)) - 1 {
					msg := message.NewMessage(watermill.NewUUID(), fmt.Appendf(nil, `{"N": %d}`, n)) // a lost answer is not waited for long
					for pub.Publish("created", msg) != nil {
						select {
						case <-t.Context().Done():
							return
						case <-time.After(time.Millisecond):
						}
					}
					published.Add(1)
				}
			})
		}
		reach := func(n int32) {
			require.Eventually(t, func() bool { return published.Load() >= n }, patience, time.Millisecond)
		}
		for restart := range int32(3) {
			reach((restart + 1) * events / 5)
			s.Stop()
			s.Start()
		}
		leaves()
		publishing.Wait()
		testkit.WaitForStatus(t, st, "handler", store.Success, events)
		waitForAcks(t, js, "created", "handler")
		testkit.RequireCount(t, st, "events", events)
		testkit.RequireCount(t, st, "handler_runs", events)
		for n := range calls {
			require.Positive(t, calls[n].Load(), "event %d", n)
		}
	})
}

// Somebody else's consumer of the stream is not disturbed.
func TestAForeignConsumerIsNotDisturbed(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		s := newServer(t)
		_, js := s.Client()
		transport := newTransport(t, nats.Config{URL: s.URL})
		require.NoError(t, testtransport.Publisher(t, transport).Publish("created", testtransport.Message(t, `{"N": 1}`)))
		theirs, err := js.CreateConsumer(t.Context(), "created", jetstream.ConsumerConfig{Durable: "theirs", AckPolicy: jetstream.AckExplicitPolicy})
		require.NoError(t, err)
		serve(t, testtransport.PubSub(t, st), transport, st, handlers.New("handler", func(context.Context, created) error { return nil }, testtransport.Again()))
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
		msg, err := theirs.Next()
		require.NoError(t, err)
		require.Equal(t, `{"N": 1}`, string(msg.Data()))
	})
}
