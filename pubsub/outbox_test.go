package pubsub_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// broker is one that can be away, slow or picky, and keeps what it takes.
type broker struct {
	mu    sync.Mutex
	taken []*message.Message
	down  error
	hang  chan struct{} // closed when it goes on
}

var errTooLarge = errors.New("message is too large")

func (b *broker) Publish(topic string, messages ...*message.Message) error {
	for _, msg := range messages {
		b.mu.Lock()
		hang := b.hang
		b.mu.Unlock()
		if hang != nil {
			<-hang
		}
		if err := b.take(msg); err != nil {
			return err
		}
	}
	return nil
}

func (b *broker) take(msg *message.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.down != nil:
		return b.down
	case strings.Contains(string(msg.Payload), "huge"):
		return errTooLarge
	}
	b.taken = append(b.taken, msg)
	return nil
}

func (*broker) Close() error { return nil }

func (b *broker) set(down error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

func (b *broker) payloads() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, msg := range b.taken {
		all = append(all, string(msg.Payload))
	}
	return all
}

func (b *broker) waitFor(t *testing.T, payloads ...string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(b.payloads()) >= len(payloads) }, time.Minute, time.Millisecond, "want %v, got %v", payloads, b.payloads)
	require.Equal(t, payloads, b.payloads())
}

func (b *broker) transport(mode pubsub.Mode) *pubsub.Transport {
	return &pubsub.Transport{
		Name: "broker", Mode: mode,
		Publisher: func() (message.Publisher, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.down != nil {
				return nil, b.down
			}
			return b, nil
		},
		Subscriber: func(string) (message.Subscriber, error) { return nil, errors.New("nobody subscribes here") },
		Refused:    func(err error) bool { return errors.Is(err, errTooLarge) },
	}
}

// outboxOf returns an outbox that is closed when the test ends.
func outboxOf(t *testing.T, ps *pubsub.PubSub, transport *pubsub.Transport, config pubsub.OutboxConfig) *pubsub.Outbox {
	t.Helper()
	o, err := ps.Outbox(transport, config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, o.Close()) })
	return o
}

// relay runs the outbox until the test ends, or stop is called.
func relay(t *testing.T, o *pubsub.Outbox) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { o.Run(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func keyed(key, payload string) *message.Message {
	msg := newMessage(payload)
	msg.Metadata.Set(store.KeyMetadata, key)
	return msg
}

func inOutbox(t *testing.T, st *store.Store, state store.OutgoingState) (payloads []string) {
	t.Helper()
	found, err := st.Outbox(t.Context(), store.OutboxFilter{State: state, Limit: store.MaxLimit})
	require.NoError(t, err)
	for _, o := range slices.Backward(found) {
		payload, err := st.OutgoingPayload(t.Context(), o.ID, 0)
		require.NoError(t, err)
		payloads = append(payloads, string(payload))
	}
	return payloads
}

func waitForSent(t *testing.T, st *store.Store, payloads ...string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(inOutbox(t, st, store.OutgoingSent)) >= len(payloads) }, time.Minute, time.Millisecond)
	require.Equal(t, payloads, inOutbox(t, st, store.OutgoingSent))
}

// A broker that works gets an event at once, and the database nothing.
func TestWhatIsPublishedDirectlyNeedsNoDatabase(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		b := &broker{}
		o := outboxOf(t, newPubSub(t, st), b.transport(""), pubsub.OutboxConfig{})
		msg := keyed("ada", "one")
		msg.Metadata.Set("traceparent", "00-1-2-01")
		require.NoError(t, o.Publisher().Publish("topic", msg))
		b.waitFor(t, "one")
		require.Equal(t, msg.UUID, b.taken[0].UUID)
		require.Equal(t, msg.Metadata, b.taken[0].Metadata)
		require.Empty(t, inOutbox(t, st, ""))
		testkit.RequireCount(t, st, "events", 0)
	})
}

// While the broker is away every publish succeeds, and when it is back all of it
// is sent, in the order of publishing.
func TestABrokerThatIsAwayLosesNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		b := &broker{down: errors.New("connection refused")}
		o := outboxOf(t, newPubSub(t, st), b.transport(pubsub.Direct), pubsub.OutboxConfig{})
		relay(t, o)
		publish := func(n int) {
			t.Helper()
			require.NoError(t, o.Publisher().Publish("topic", keyed("ada", fmt.Sprint(n))))
		}
		for n := range 10 {
			publish(n)
		}
		require.Len(t, inOutbox(t, st, store.OutgoingPending), 10)
		require.Eventually(t, func() bool {
			counts, err := st.OutboxCounts(t.Context())
			require.NoError(t, err)
			return len(counts) == 1 && strings.Contains(counts[0].Error, "connection refused")
		}, time.Minute, 5*time.Millisecond, "the outbox says why")
		b.set(nil)
		want := []string{}
		for n := range 20 {
			want = append(want, fmt.Sprint(n))
			if n >= 10 {
				publish(n) // by the outbox as long as something waits there, directly afterwards
			}
		}
		b.waitFor(t, want...)
		waitForSent(t, st, inOutbox(t, st, "")...)
	})
}

// What a process left in the outbox is not overtaken by what the next publishes.
func TestWhatAnEarlierProcessLeftGoesFirst(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		b := &broker{down: errors.New("connection refused")}
		earlier := outboxOf(t, newPubSub(t, st), b.transport(pubsub.Direct), pubsub.OutboxConfig{})
		require.NoError(t, earlier.Publisher().Publish("topic", keyed("ada", "1")))
		require.NoError(t, earlier.Close())
		b.set(nil)
		next := outboxOf(t, newPubSub(t, st), b.transport(pubsub.Direct), pubsub.OutboxConfig{})
		require.NoError(t, next.Publisher().Publish("topic", keyed("ada", "2")))
		require.Empty(t, b.payloads())
		relay(t, next)
		b.waitFor(t, "1", "2")
		require.Eventually(t, func() bool {
			before := len(inOutbox(t, st, ""))
			require.NoError(t, next.Publisher().Publish("topic", keyed("ada", "more")))
			return len(inOutbox(t, st, "")) == before
		}, time.Minute, 50*time.Millisecond, "afterwards it is published directly")
	})
}

// A broker that hangs costs the first publishes SendTimeout; those that come
// after them find the topic diverted.
func TestABrokerThatHangsHoldsUpNobody(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		b := &broker{hang: make(chan struct{})}
		o := outboxOf(t, newPubSub(t, st), b.transport(pubsub.Direct), pubsub.OutboxConfig{SendTimeout: 100 * time.Millisecond})
		begun := time.Now()
		require.NoError(t, o.Publisher().Publish("topic", keyed("ada", "first")))
		require.GreaterOrEqual(t, time.Since(begun), 100*time.Millisecond)
		// Nobody relays: were one of them sent directly, it would hang for ever.
		for n := range 20 {
			require.NoError(t, o.Publisher().Publish("topic", keyed("ada", fmt.Sprint(n))))
		}
		require.Len(t, inOutbox(t, st, store.OutgoingPending), 21)
		close(b.hang)
		b.waitFor(t, "first")
		relay(t, o)
		require.Eventually(t, func() bool { return len(inOutbox(t, st, store.OutgoingSent)) == 21 }, time.Minute, time.Millisecond)
		require.Equal(t, "first", b.payloads()[1], "it is sent again, under the same UUID")
		require.Equal(t, b.taken[0].UUID, b.taken[1].UUID)
	})
}

// When the broker is back, events go there directly again, however many are
// published meanwhile.
func TestADiversionEndsUnderLoad(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		b := &broker{down: errors.New("connection refused")}
		o := outboxOf(t, newPubSub(t, st), b.transport(pubsub.Direct), pubsub.OutboxConfig{})
		relay(t, o)
		var published atomic.Int64
		var callers sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		for caller := range 4 {
			callers.Go(func() {
				for ctx.Err() == nil {
					if err := o.Publisher().Publish("topic", keyed(fmt.Sprint(caller), "x")); err != nil {
						t.Error(err)
					}
					published.Add(1)
				}
			})
		}
		more := func() {
			from := published.Load()
			require.Eventually(t, func() bool { return published.Load() > from+20 }, time.Minute, time.Millisecond)
		}
		more()
		b.set(nil)
		newest := func() int64 {
			found, err := st.Outbox(t.Context(), store.OutboxFilter{Limit: 1})
			require.NoError(t, err)
			return found[0].ID
		}
		require.Eventually(t, func() bool {
			before := newest()
			more()
			return newest() == before
		}, time.Minute, 10*time.Millisecond)
		stop()
		callers.Wait()
	})
}

// What the broker refuses for what it is is the publisher's error, or on record
// in the outbox, and holds up nothing.
func TestWhatTheBrokerRefusesHoldsUpNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		b := &broker{}
		o := outboxOf(t, newPubSub(t, st), b.transport(pubsub.Direct), pubsub.OutboxConfig{})
		err := o.Publisher().Publish("topic", keyed("ada", "huge"))
		require.ErrorIs(t, err, errTooLarge)
		require.NotErrorIs(t, err, pubsub.ErrMaybeWritten)
		require.Empty(t, inOutbox(t, st, ""))

		require.NoError(t, o.Publisher().Publish("topic", keyed("ada", "1"), keyed("ada", "huge"), keyed("ada", "2")))
		relay(t, o)
		b.waitFor(t, "1", "2")
		waitForSent(t, st, "1", "2")
		require.Equal(t, []string{"huge"}, inOutbox(t, st, store.OutgoingRefused))
	})
}

// A transaction that is rolled back sends nothing; one that is committed does,
// with InTx and with any other.
func TestWhatIsPublishedInATransactionIsSentWhenThatIsCommitted(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		b := &broker{}
		ps := newPubSub(t, st)
		o := outboxOf(t, ps, b.transport(pubsub.Direct), pubsub.OutboxConfig{})
		relay(t, o)
		sorry := errors.New("sorry")
		require.ErrorIs(t, ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
			require.NoError(t, o.PublisherTx(tx).Publish("topic", newMessage("never")))
			return sorry
		}), sorry)
		require.NoError(t, ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
			return o.PublisherTx(tx).Publish("topic", keyed("ada", "1"))
		}))
		require.NoError(t, o.Publisher().Publish("topic", keyed("ada", "2")), "which does not overtake it")
		b.waitFor(t, "1", "2")

		tx, err := st.DB().BeginTx(t.Context(), &sql.TxOptions{})
		require.NoError(t, err)
		require.NoError(t, o.PublisherTx(tx).Publish("topic", keyed("ada", "3")))
		require.NoError(t, tx.Commit())
		b.waitFor(t, "1", "2", "3")
		require.Error(t, o.PublisherTx((*sql.Tx)(nil)).Publish("topic", newMessage("x")))
	})
}

// A transactional handler on SQLite holds the one connection that can write:
// were the broker to fail, what it publishes besides could not be kept.
func TestATransactionalHandlerOnSQLitePublishesInItsTransaction(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.SQLite(t))
	b := &broker{}
	o := outboxOf(t, newPubSub(t, st), b.transport(pubsub.Direct), pubsub.OutboxConfig{})
	relay(t, o)
	tx, err := st.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	msg := newMessage("x")
	msg.SetContext(handlers.WithTx(t.Context(), tx))
	require.ErrorContains(t, o.Publisher().Publish("topic", msg), "publish in its transaction")
	require.NoError(t, o.PublisherTx(tx).Publish("topic", msg))
	require.NoError(t, tx.Commit())
	b.waitFor(t, "x")
}

// The modes: what is held waits for somebody, what goes by the database is
// handled from there.
func TestTheModeOfATopicSaysHowItIsPublished(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		b := &broker{}
		ps := newPubSub(t, st)
		o := outboxOf(t, ps, b.transport(pubsub.ViaOutbox), pubsub.OutboxConfig{Topics: map[string]pubsub.Mode{
			"held": pubsub.Hold, "here": pubsub.ViaDatabase, "there": pubsub.Direct,
		}})
		messages := subscribe(t, ps, "here", "handler")
		for _, topic := range []string{"held", "here", "there", "outbox"} {
			require.NoError(t, o.Publisher().Publish(topic, newMessage(topic)))
		}
		here := testkit.Receive(t, messages)
		require.Equal(t, "here", string(here.Payload))
		here.Ack()
		b.waitFor(t, "there")
		require.Equal(t, []string{"outbox"}, inOutbox(t, st, store.OutgoingPending))
		relay(t, o)
		b.waitFor(t, "there", "outbox")
		require.Equal(t, []string{"held"}, inOutbox(t, st, store.OutgoingHeld))

		_, err := operate.On(st).ChangeOutbox(t.Context(), store.Operation{Kind: store.Releasing, RequestedBy: "maria"})
		require.NoError(t, err)
		b.waitFor(t, "there", "outbox", "held")
		waitForSent(t, st, "held", "outbox")
	})
}

// One process at a time sends; another takes over when it is gone, and each
// message arrives in its order whoever sends it.
func TestOneRelayAtATimeSendsAndAnotherTakesOver(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := &broker{}
		var stops []func()
		var outboxes []*pubsub.Outbox
		var st *store.Store
		for range 3 {
			st = testkit.OpenStore(t, url)
			o := outboxOf(t, newPubSub(t, st), b.transport(pubsub.ViaOutbox), pubsub.OutboxConfig{})
			stops = append(stops, relay(t, o))
			outboxes = append(outboxes, o)
		}
		var want []string
		publish := func() {
			for range 30 {
				payload := fmt.Sprint(len(want))
				want = append(want, payload)
				require.NoError(t, outboxes[len(want)%3].Publisher().Publish("topic", keyed("ada", payload)))
			}
		}
		for _, stop := range stops[:2] {
			publish()
			b.waitFor(t, want...)
			stop()
		}
		publish()
		b.waitFor(t, want...)
	})
}

// Two topics of one broker: the one that is not to be had holds up no other.
func TestATopicThatCannotBeSentHoldsUpNoOther(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		b := &broker{}
		transport := b.transport(pubsub.ViaOutbox)
		transport.Publisher = func() (message.Publisher, error) {
			return picky{b}, nil
		}
		o := outboxOf(t, newPubSub(t, st), transport, pubsub.OutboxConfig{SendTimeout: time.Hour})
		relay(t, o)
		require.NoError(t, o.Publisher().Publish("unknown", newMessage("waits")))
		require.NoError(t, o.Publisher().Publish("topic", newMessage("goes")))
		b.waitFor(t, "goes")
		waitForSent(t, st, "goes")
		require.Equal(t, []string{"waits"}, inOutbox(t, st, store.OutgoingPending))
	})
}

// picky is a broker that knows one topic.
type picky struct{ *broker }

func (b picky) Publish(topic string, messages ...*message.Message) error {
	if topic != "topic" {
		return errors.New("unknown topic")
	}
	return b.broker.Publish(topic, messages...)
}

// A hundred callers while the broker comes and goes: everything arrives, and
// that of one key in its order.
func TestNothingIsLostOrOvertakenWhileTheBrokerComesAndGoes(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		const keys, each = 8, 40
		st := testkit.OpenStore(t, url)
		b := &broker{}
		o := outboxOf(t, newPubSub(t, st), b.transport(pubsub.Direct), pubsub.OutboxConfig{})
		relay(t, o)
		stop := make(chan struct{})
		var flicker, callers sync.WaitGroup
		flicker.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					b.set(nil)
					return
				case <-time.After(3 * time.Millisecond):
					b.set([]error{nil, errors.New("connection reset")}[i%2])
				}
			}
		})
		for key := range keys {
			callers.Go(func() {
				for n := range each {
					if err := o.Publisher().Publish("topic", keyed(fmt.Sprint("key ", key), fmt.Sprintf("%d/%03d", key, n))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		callers.Wait()
		close(stop)
		flicker.Wait()
		require.Eventually(t, func() bool { return len(unique(b.payloads())) == keys*each }, time.Minute, 5*time.Millisecond)
		last := map[string]string{}
		for _, payload := range unique(b.payloads()) {
			key, n, _ := strings.Cut(payload, "/")
			require.Less(t, last[key], n)
			last[key] = n
		}
	})
}

// unique leaves out what came before.
func unique(all []string) (first []string) {
	seen := map[string]bool{}
	for _, s := range all {
		if !seen[s] {
			first = append(first, s)
		}
		seen[s] = true
	}
	return first
}

func TestAnOutboxSaysWhatIsWrong(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		ps := newPubSub(t, testkit.OpenStore(t, url))
		b := &broker{}
		_, err := ps.Outbox(nil, pubsub.OutboxConfig{})
		require.ErrorContains(t, err, "without one, publish by PubSub.Publisher")
		_, err = ps.Outbox(&pubsub.Transport{Mode: "later"}, pubsub.OutboxConfig{})
		require.ErrorContains(t, err, `field Name is empty`)
		require.ErrorContains(t, err, `mode "later": want direct, outbox, hold, database`)
		require.ErrorContains(t, err, `field Publisher is nil`)
		require.ErrorContains(t, err, `field Subscriber is nil`)
		_, err = ps.Outbox(b.transport(""), pubsub.OutboxConfig{Topics: map[string]pubsub.Mode{"x": "y"}, SendTimeout: -1})
		require.ErrorContains(t, err, `field Topics["x"]: mode "y"`)
		require.ErrorContains(t, err, `field SendTimeout -1ns`)

		o := outboxOf(t, ps, b.transport(""), pubsub.OutboxConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		msg := newMessage("x")
		msg.SetContext(ctx)
		require.ErrorContains(t, o.Publisher().Publish("topic", msg), "nothing was written")
		require.Error(t, o.Publisher().Publish("", newMessage("x")))
	})
}

// A transport that is away when a handler subscribes to it, or that ends the
// subscription by itself, is subscribed to again.
func TestAnInboxSubscribesAgain(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		flaky := &flaky{attempts: make(chan chan *message.Message)}
		messages := inbox(t, newPubSub(t, st), flaky, handlers.Policy{}, pubsub.InboxConfig{})
		deliver := func(payload string) {
			t.Helper()
			feed := testkit.Receive(t, flaky.attempts)
			msg := newMessage(payload)
			feed <- msg
			<-msg.Acked()
			close(feed)
			got := testkit.Receive(t, messages)
			require.Equal(t, payload, string(got.Payload))
			got.Ack()
		}
		deliver("first")
		deliver("second")
	})
}

// flaky refuses the first attempt to subscribe, and ends every subscription
// that the test ends.
type flaky struct {
	attempts chan chan *message.Message
	refused  bool
}

func (f *flaky) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	if !f.refused {
		f.refused = true
		return nil, errors.New("the broker is away")
	}
	feed := make(chan *message.Message)
	select {
	case f.attempts <- feed:
	case <-ctx.Done():
		close(feed)
	}
	return feed, nil
}

func (*flaky) Close() error { return nil }
