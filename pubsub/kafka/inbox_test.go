package kafka_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/internal/testtransport"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/kafka"
	"github.com/reprise-bus/reprise/store"
)

type created struct{ N int }

func (created) EventName() string { return "created" }

// serve runs a handler in a router, as a bus does, until the test is over or
// stop is called.
func serve(t testing.TB, ps *pubsub.PubSub, transport *pubsub.Transport, st *store.Store, topic string, h *handlers.Handler) (stop func()) {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddMiddleware(middleware.Record(st))
	in := testtransport.Inbox(t, ps, transport, h.HandlerName(), h.Policy(), true)
	router.AddConsumerHandler(h.HandlerName(), topic, in, handlers.Func(h, handlers.JSON()))
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
		topic := testbroker.Topic(t, 1)
		transport := newTransport(t, kafka.Config{GroupPrefix: topic})
		require.NoError(t, testtransport.Publisher(t, transport).Publish(topic, testtransport.Message(t, "{no JSON")))
		client := newClient(t)
		produce(t, client, &kgo.Record{Topic: topic, Value: []byte(`{"N": "a word"}`)}, &kgo.Record{Topic: topic})
		serve(t, testtransport.PubSub(t, st), transport, st, topic, handlers.New("handler", func(context.Context, created) error {
			return nil
		}, handlers.Policy{Attempts: 2, Cycles: 1, Backoff: testtransport.Again().Backoff}))
		testkit.WaitForStatus(t, st, "handler", store.Failed, 3)
		waitForCommits(t, client, topic+"handler", topic, 1, 3)
		testkit.RequireCount(t, st, "handler_runs", 3)
		event, err := st.Event(t.Context(), topic, topic+"/0/1")
		require.NoError(t, err)
		require.Equal(t, "kafka", event.Source)
	})
}

// A message that hangs, one that panics, and everything else of their partition.
func TestAPoisonousMessageHoldsUpNoOther(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		topic := testbroker.Topic(t, 1)
		transport := newTransport(t, kafka.Config{GroupPrefix: topic})
		pub := testtransport.Publisher(t, transport)
		release := make(chan struct{})
		serve(t, testtransport.PubSub(t, st), transport, st, topic, handlers.New("handler", func(_ context.Context, e created) error {
			switch e.N {
			case 0:
				<-release
			case 1:
				panic("poison")
			}
			return nil
		}, handlers.Policy{Attempts: 1, Cycles: 1}))
		for i := range 100 {
			require.NoError(t, pub.Publish(topic, testtransport.Message(t, fmt.Sprintf(`{"N": %d}`, i))))
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, 98)
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		waitForCommits(t, newClient(t), topic+"handler", topic, 1, 100)
		close(release)
		testkit.WaitForStatus(t, st, "handler", store.Success, 99)
	})
}

// A process that records, and dies before the broker hears of it.
func TestWhatIsDeliveredAgainAfterACrashIsOneRun(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		topic := testbroker.Topic(t, 1)
		client := newClient(t)
		dies := newTransport(t, kafka.Config{GroupPrefix: topic, Sarama: func(c *sarama.Config) {
			c.Consumer.Offsets.AutoCommit.Enable = false
		}})
		require.NoError(t, testtransport.Publisher(t, dies).Publish(topic, testtransport.Message(t, `{"N": 1}`)))
		produce(t, client, &kgo.Record{Topic: topic, Value: []byte(`{"N": 2}`)})
		var calls atomic.Int32
		handler := handlers.New("handler", func(context.Context, created) error {
			calls.Add(1)
			return nil
		})
		stop := serve(t, testtransport.PubSub(t, st), dies, st, topic, handler)
		testkit.WaitForStatus(t, st, "handler", store.Success, 2)
		stop()
		require.Zero(t, committed(t, client, topic+"handler", topic, 1))

		serve(t, testtransport.PubSub(t, st), newTransport(t, kafka.Config{GroupPrefix: topic}), st, topic, handler)
		waitForCommits(t, client, topic+"handler", topic, 1, 2)
		require.EqualValues(t, 2, calls.Load())
		testkit.RequireCount(t, st, "handler_runs", 2)
	})
}

// A second process comes and goes while events are published and handlers run:
// each event is handled once.
func TestARebalanceDisturbsNoHandler(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		const partitions, n = 6, 600
		st := testkit.OpenStore(t, url)
		topic := testbroker.Topic(t, partitions)
		lines, logger := testtransport.NewLogged(t)
		transport := newTransport(t, kafka.Config{GroupPrefix: topic, Logger: logger, Sarama: func(c *sarama.Config) {
			c.Consumer.Group.Heartbeat.Interval = 100 * time.Millisecond
		}})
		var mu sync.Mutex
		handled := map[int]int{}
		handler := handlers.New("handler", func(_ context.Context, e created) error {
			mu.Lock()
			defer mu.Unlock()
			handled[e.N]++
			return nil
		})
		serve(t, testtransport.PubSub(t, st), transport, st, topic, handler)
		published := make(chan error, 1)
		joins := make(chan struct{})
		go func() {
			pub, err := transport.Publisher()
			for i := 0; i < n && err == nil; i++ {
				if i%(n/4) == 0 {
					<-joins
				}
				err = pub.Publish(topic, testtransport.Message(t, fmt.Sprintf(`{"N": %d}`, i)))
			}
			published <- err
		}()
		client := newClient(t)
		joins <- struct{}{}
		for round := range 3 {
			stop := serve(t, testtransport.PubSub(t, st), transport, st, topic, handler)
			joins <- struct{}{}
			waitForMembers(t, client, topic+"handler", 2)
			stop()
			waitForMembers(t, client, topic+"handler", 1)
			t.Log("round", round)
		}
		require.NoError(t, testkit.Receive(t, published))
		testkit.WaitForStatus(t, st, "handler", store.Success, n)
		waitForCommits(t, client, topic+"handler", topic, partitions, n)
		testkit.RequireCount(t, st, "handler_runs", n)
		mu.Lock()
		defer mu.Unlock()
		for i := range n {
			require.Equal(t, 1, handled[i], i)
		}
		require.Zero(t, lines.Count("receiving"), "a rebalance is no outage")
	})
}

// The broker goes away, in order and not, while events are published and
// received.
func TestNothingIsLostWhenTheBrokerRestarts(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.Postgres(t))
	broker := testbroker.OwnKafka(t)
	testbroker.CreateTopic(t, []string{broker.Addr}, "created", 3)
	lines, logger := testtransport.NewLogged(t)
	transport := newTransport(t, kafka.Config{Brokers: []string{broker.Addr}, Logger: logger})
	serve(t, testtransport.PubSub(t, st), transport, st, "created", handlers.New("handler", func(context.Context, created) error { return nil }))
	pub := testtransport.Publisher(t, transport)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var sent atomic.Int64
	var publishing sync.WaitGroup
	for range 4 {
		publishing.Go(func() {
			for ctx.Err() == nil {
				msg := testtransport.Message(t, fmt.Sprintf(`{"N": %d}`, sent.Add(1)))
				for pub.Publish("created", msg) != nil { // as an outbox does
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	more := func() {
		t.Helper()
		want := sent.Load() + 100
		require.Eventually(t, func() bool { return sent.Load() > want }, patience, time.Millisecond)
	}
	waitForSome := func() {
		t.Helper()
		before := testkit.Count(t, st, "handler_runs")
		require.Eventually(t, func() bool { return testkit.Count(t, st, "handler_runs") > before }, patience, 10*time.Millisecond)
	}
	more()
	waitForSome()
	for i, end := range []func(){broker.Stop, broker.Kill} {
		end()
		require.Eventually(t, func() bool { return lines.Count("receiving created as handler fails") == i+1 }, patience, 10*time.Millisecond)
		broker.Start()
		more()
		require.Eventually(t, func() bool { return lines.Count("receiving created as handler works again") == i+1 }, patience, 10*time.Millisecond)
		waitForSome()
	}
	cancel()
	publishing.Wait()
	testkit.WaitForStatus(t, st, "handler", store.Success, int(sent.Load()))
	testkit.RequireCount(t, st, "handler_runs", int(sent.Load()))
	require.Equal(t, 2, lines.Count("receiving"+" created as handler fails"))
}

// Another program's consumer group reads the topic beside a handler: each gets
// everything, and commits for itself.
func TestAForeignGroupIsNotDisturbed(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		const n = 100
		st := testkit.OpenStore(t, url)
		topic := testbroker.Topic(t, 3)
		transport := newTransport(t, kafka.Config{GroupPrefix: topic})
		foreign := newClient(t, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic+"foreign"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
		serve(t, testtransport.PubSub(t, st), transport, st, topic, handlers.New("handler", func(context.Context, created) error { return nil }))
		pub := testtransport.Publisher(t, transport)
		for i := range n {
			require.NoError(t, pub.Publish(topic, testtransport.Message(t, fmt.Sprintf(`{"N": %d}`, i))))
		}
		got := map[int]bool{}
		for _, r := range consume(t, foreign, n) {
			var e created
			require.NoError(t, json.Unmarshal(r.Value, &e))
			got[e.N] = true
		}
		require.Len(t, got, n)
		testkit.WaitForStatus(t, st, "handler", store.Success, n)
		waitForCommits(t, foreign, topic+"handler", topic, 3, n)
		require.Zero(t, committed(t, foreign, topic+"foreign", topic, 3), "it has not committed yet")
		require.NoError(t, foreign.CommitUncommittedOffsets(t.Context()))
		require.EqualValues(t, n, committed(t, foreign, topic+"foreign", topic, 3))
	})
}
