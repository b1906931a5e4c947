package pubsub_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// The topics of one Subscriber have its slots together, whatever way its runs come:
// handed over, claimed, or by an Inbox.
func TestTopicsOfASubscriberShareItsSlots(t *testing.T) {
	for name, test := range map[string]struct{ slots, process int }{
		"one slot": {1, 0}, "a slot for each topic": {3, 0}, "slots of the process": {2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) { shareSlots(t, url, test.slots, test.process) })
		})
	}
}

func shareSlots(t *testing.T, url string, slots, process int) {
	const n = 10 // messages of a topic by each way
	st := testkit.OpenStore(t, url)
	ps := configured(t, st, pubsub.Config{MaxConcurrency: process, PollInterval: 10 * time.Millisecond})
	elsewhere := configured(t, st, pubsub.Config{})
	policy := handlers.Policy{Concurrency: slots}
	g := transport(t)
	in, err := ps.Inbox(g, "inbox", policy, pubsub.InboxConfig{})
	require.NoError(t, err)
	topics := []string{"a", "b", "c"}
	var working sync.WaitGroup
	for handler, subscriber := range map[string]message.Subscriber{"group": ps.Subscriber("group", policy), "inbox": in} {
		var running atomic.Int64
		var once sync.Once
		full := make(chan struct{}) // as many as may be
		for _, topic := range topics {
			messages, err := subscriber.Subscribe(t.Context(), topic)
			require.NoError(t, err)
			for range slots + 1 {
				working.Go(func() {
					for msg := range messages {
						k := int(running.Add(1))
						if k > slots {
							t.Errorf("%d runs of %s at once, want at most %d", k, handler, slots)
						}
						if k == slots {
							once.Do(func() { close(full) })
						}
						<-full
						running.Add(-1)
						msg.Ack()
					}
				})
			}
		}
	}
	var publishing sync.WaitGroup
	for _, topic := range topics {
		for _, publish := range []func(*message.Message) error{
			func(msg *message.Message) error { return ps.Publisher().Publish(topic, msg) },
			func(msg *message.Message) error { return elsewhere.Publisher().Publish(topic, msg) },
			func(msg *message.Message) error { return g.Publish(topic, msg) },
			func(msg *message.Message) error {
				return ps.InTx(t.Context(), func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish(topic, msg) })
			},
		} {
			publishing.Go(func() {
				for i := range n {
					if err := publish(newMessage(fmt.Sprint(i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	publishing.Wait()
	testkit.WaitForStatus(t, st, "inbox", store.Success, len(topics)*4*n)
	testkit.WaitForStatus(t, st, "group", store.Success, len(topics)*3*n) // what the transport brings is the Inbox's
	require.NoError(t, ps.Close())
	working.Wait()
}

// A topic whose runs wait for the slots is not overtaken by what is published on
// another topic that shares them.
func TestATopicWaitsNoLongerThanItsSiblings(t *testing.T) {
	t.Parallel() // on SQLite nothing is handed over, and what was published first is claimed first
	st, gate := openGatedStore(t, testdb.Postgres(t))
	ps := configured(t, st, pubsub.Config{PollInterval: noPoll})
	subscriber := ps.Subscriber("group", handlers.Policy{Concurrency: 1})
	a, err := subscriber.Subscribe(t.Context(), "a")
	require.NoError(t, err)
	b, err := subscriber.Subscribe(t.Context(), "b")
	require.NoError(t, err)
	publish := func(topic string) { require.NoError(t, ps.Publisher().Publish(topic, newMessage(topic))) }
	publish("a")
	running := testkit.Receive(t, a)
	publish("b")
	claimed := gate.After(isClaim)
	running.Ack()
	claimed.Wait(t)
	publish("a")
	claimed.Release()
	select {
	case msg := <-b:
		msg.Ack()
	case <-a:
		t.Fatal("what is newer came first")
	case <-time.After(patience):
		t.Fatal("neither came")
	}
	testkit.Receive(t, a).Ack()
	testkit.WaitForStatus(t, st, "group", store.Success, 3)
}

// A topic that has many runs gets the slots that others do not need.
func TestATopicGetsTheSlotsThatItsSiblingsDoNotNeed(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{PollInterval: noPoll})
		subscriber := ps.Subscriber("group", handlers.Policy{Concurrency: 4})
		require.NoError(t, subscriber.SubscribeInitialize("a"))
		messages := make([]*message.Message, 4)
		for i := range messages {
			messages[i] = newMessage("x")
		}
		require.NoError(t, ps.Publisher().Publish("a", messages...))
		_, err := subscriber.Subscribe(t.Context(), "b")
		require.NoError(t, err)
		a, err := subscriber.Subscribe(t.Context(), "a")
		require.NoError(t, err)
		for i := range messages { // all are running at once
			messages[i] = testkit.Receive(t, a)
		}
		for _, msg := range messages {
			msg.Ack()
		}
		testkit.WaitForStatus(t, st, "group", store.Success, 4)
	})
}
