package pubsub_test

import (
	"context"

	"fmt"

	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

const patience = time.Minute

func TestConfigNamesTheFieldThatIsWrong(t *testing.T) {
	err := pubsub.Config{Concurrency: -1, PollInterval: -time.Second, DeadAfter: time.Second, HeartbeatInterval: time.Second}.Validate()
	require.ErrorContains(t, err, "Concurrency -1: want at least 1")
	require.ErrorContains(t, err, "PollInterval -1s: want a positive duration")
	require.ErrorContains(t, err, "DeadAfter 1s: want at least three times HeartbeatInterval 1s")
	require.NoError(t, pubsub.Config{}.Validate())

	_, err = pubsub.New(nil, pubsub.Config{})
	require.ErrorContains(t, err, "store.New")
}

func TestPublishSaysWhatWasWrittenAndWhatNot(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		pub := newPubSub(t, st).Publisher()

		cancelled, cancel := context.WithCancel(context.Background())
		cancel()
		msg := newMessage("x")
		msg.SetContext(cancelled)
		err := pub.Publish("topic", msg)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "nothing was written")

		require.ErrorContains(t, pub.Publish("", newMessage("x")), "topic is empty")
		require.ErrorContains(t, pub.Publish("no\nlines", newMessage("x")), "without control characters")
		invalid := newMessage("x")
		invalid.Metadata.Set("key", "\xff")
		require.ErrorContains(t, pub.Publish("topic", invalid), "UTF-8")
		testkit.RequireCount(t, st, "events", 0)

		require.NoError(t, pub.Publish("topic"))
		require.NoError(t, pub.Publish("topic", newMessage("x")))
		testkit.RequireCount(t, st, "events", 1)
	})
}

func TestPublishingAMessageAgainDoesNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		require.NoError(t, ps.Register("topic", "handler", again))
		msg := newMessage("x")
		require.NoError(t, ps.Publisher().Publish("topic", msg))
		require.NoError(t, ps.Publisher().Publish("topic", msg))
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("y"), msg))
		testkit.RequireCount(t, st, "handler_runs", 2)

		other := message.NewMessage(msg.UUID, []byte("other"))
		require.ErrorIs(t, ps.Publisher().Publish("topic", other), store.ErrDuplicateID)
		require.NoError(t, ps.Publisher().Publish("elsewhere", other), "an id is unique on its topic")
	})
}

// After so many new messages the publisher expects no other ones.
func TestPublishingAgainWhatIsExpectedToBeNew(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		messages := subscribe(t, ps, "topic", "handler")
		publish := func(msgs ...*message.Message) error { return ps.Publisher().Publish("topic", msgs...) }
		known := newMessage("known")
		written, handled := 0, 0
		for _, publishAgain := range []func() (fresh int){
			func() int { require.NoError(t, publish(known)); return 1 },
			func() int { require.NoError(t, publish(known)); return 0 },
			func() int { require.NoError(t, publish(newMessage("fresh"), known, known)); return 1 },
			func() int {
				twice := newMessage("twice")
				require.NoError(t, publish(twice, twice))
				return 1
			},
			func() int {
				other := message.NewMessage(known.UUID, []byte("other"))
				require.ErrorIs(t, publish(newMessage("with it"), other), store.ErrDuplicateID)
				require.ErrorIs(t, publish(other, known), store.ErrDuplicateID)
				return 0
			},
		} {
			for range 10 {
				require.NoError(t, publish(newMessage("news")))
			}
			written += 10 + publishAgain()
			for handled < written {
				testkit.Receive(t, messages).Ack()
				handled++
			}
			testkit.WaitForStatus(t, st, "handler", store.Success, written)
			testkit.RequireCount(t, st, "handler_runs", written)
		}
	})
}

// What is handed over in memory is each handler's own.
func TestAHandlerMayChangeItsMessage(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		first, second := subscribe(t, ps, "topic", "first"), subscribe(t, ps, "topic", "second")
		msg := newMessage("what was said")
		msg.Metadata.Set("who", "ada")
		require.NoError(t, ps.Publisher().Publish("topic", msg))
		received := []*message.Message{testkit.Receive(t, first), testkit.Receive(t, second)}
		for _, r := range received {
			require.Equal(t, "what was said", string(r.Payload))
			require.Equal(t, message.Metadata{"who": "ada"}, r.Metadata)
			r.Payload[0] = 'W'
			r.Metadata.Set("who", "eve")
			r.Ack()
		}
		require.Equal(t, "what was said", string(msg.Payload))
		require.Equal(t, "ada", msg.Metadata.Get("who"))
	})
}

// What one statement does not take is one transaction all the same.
func TestALargePublishIsAllOrNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		require.NoError(t, ps.Register("topic", "handler", again))
		taken := newMessage("taken")
		require.NoError(t, ps.Publisher().Publish("topic", taken))

		many := make([]*message.Message, 0, 4501)
		for i := range 4500 {
			many = append(many, newMessage(fmt.Sprint(i)))
		}
		bad := message.NewMessage(taken.UUID, []byte("not what was published"))
		require.ErrorIs(t, ps.Publisher().Publish("topic", append(many, bad)...), store.ErrDuplicateID)
		testkit.RequireCount(t, st, "events", 1)

		require.NoError(t, ps.Publisher().Publish("topic", many...))
		testkit.RequireCount(t, st, "events", 4501)
		testkit.RequireCount(t, st, "handler_runs", 4501)

		large := make([]*message.Message, 5)
		for i := range large {
			large[i] = newMessage(strings.Repeat(fmt.Sprint(i), 3<<20))
		}
		require.NoError(t, ps.Publisher().Publish("large", large...))
	})
}

func TestAMessageWithoutUUIDGetsOne(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		msg := message.NewMessage("", []byte("x"))
		require.NoError(t, newPubSub(t, st).Publisher().Publish("topic", msg))
		require.NotEmpty(t, msg.UUID)
		_, err := st.Event(t.Context(), "topic", msg.UUID)
		require.NoError(t, err)
	})
}

// What a handler publishes says what it follows from.
func TestCausationIsRecorded(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		first := newMessage("first")
		second, third := newMessage("second"), newMessage("third")
		require.NoError(t, ps.Publisher().Publish("a", first))
		second.SetContext(cqrs.CtxWithOriginalMessage(t.Context(), first))
		require.NoError(t, ps.Publisher().Publish("b", second))

		stored, err := st.Event(t.Context(), "b", second.UUID)
		require.NoError(t, err)
		require.Equal(t, first.UUID, stored.Metadata[pubsub.CausationIDMetadata])
		require.Equal(t, first.UUID, stored.Metadata[pubsub.CorrelationIDMetadata])

		cause := message.NewMessage(second.UUID, second.Payload)
		cause.Metadata = stored.Metadata
		third.SetContext(cqrs.CtxWithOriginalMessage(t.Context(), cause))
		require.NoError(t, ps.Publisher().Publish("c", third))
		stored, err = st.Event(t.Context(), "c", third.UUID)
		require.NoError(t, err)
		require.Equal(t, second.UUID, stored.Metadata[pubsub.CausationIDMetadata])
		require.Equal(t, first.UUID, stored.Metadata[pubsub.CorrelationIDMetadata], "it all began with the first")
	})
}

func TestANilTransactionIsAnError(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		db := st.DB()
		tx, err := db.BeginTxx(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, tx.Rollback())
		tx = nil
		require.ErrorContains(t, newPubSub(t, st).PublisherTx(tx).Publish("topic", newMessage("x")), "transaction is nil")
	})
}

// A handler that hangs, with every slot it may have, delays nobody else.
func TestAHangingHandlerDelaysNoOther(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		hanging := subscribe(t, ps, "topic", "hangs")
		quick := subscribe(t, ps, "topic", "quick")
		for range 50 {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		}
		testkit.Receive(t, hanging) // and is never acked
		for range 50 {
			testkit.Receive(t, quick).Ack()
		}
		testkit.WaitForStatus(t, st, "quick", store.Success, 50)
	})
}

func TestCloseGivesRunningHandlersTheGracePeriod(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		messages := subscribe(t, ps, "topic", "handler")
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		msg := testkit.Receive(t, messages)

		closed := make(chan error, 1)
		go func() { closed <- ps.Close() }()
		for range messages { // closed by Close, at once
			t.Error("a message came after Close")
		}
		require.NoError(t, msg.Context().Err(), "the handler's context is alive during the grace period")
		msg.Ack()
		require.NoError(t, testkit.Receive(t, closed))
		require.Equal(t, store.Success, only(t, st).Status, "its end is in the database when Close returns")
		require.ErrorIs(t, msg.Context().Err(), context.Canceled)
	})
}

func TestWhatOverrunsTheGracePeriodIsDueAgainWithoutLosingTheAttempt(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		messages := subscribe(t, ps, "topic", "handler")
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		msg := testkit.Receive(t, messages)
		require.NoError(t, ps.Close())
		require.ErrorIs(t, msg.Context().Err(), context.Canceled)
		msg.Ack() // too late to count

		run := only(t, st)
		require.Equal(t, store.Pending, run.Status)
		require.Zero(t, run.Tries)
		require.False(t, run.DueAt.IsZero())
		attempts, err := st.Attempts(t.Context(), run.ID)
		require.NoError(t, err)
		require.Len(t, attempts, 1)
		require.Equal(t, store.KindInterrupted, attempts[0].Kind)

		again := subscribe(t, newPubSub(t, st), "topic", "handler")
		testkit.Receive(t, again).Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
	})
}

// What was claimed and never delivered is due again at once.
func TestCloseReleasesWhatNeverStarted(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		subscribe(t, ps, "topic", "handler") // nobody receives
		for range 5 {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		}
		require.Eventually(t, func() bool { return len(leased(t, st)) == 5 }, patience, time.Millisecond)
		require.NoError(t, ps.Close())
		for _, run := range runs(t, st, store.Filter{}) {
			require.Equal(t, store.Pending, run.Status)
			require.Zero(t, run.Tries, "it had not begun")
			require.Empty(t, run.Error)
			require.False(t, run.DueAt.IsZero())
		}
	})
}

func TestAClosedPubSubTakesNoSubscriber(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		ps := newPubSub(t, testkit.OpenStore(t, url))
		require.NoError(t, ps.Close())
		_, err := ps.Subscriber("handler", again).Subscribe(t.Context(), "topic")
		require.ErrorIs(t, err, pubsub.ErrClosed)

		ps = newPubSub(t, testkit.OpenStore(t, url))
		sub := ps.Subscriber("handler", again)
		require.NoError(t, sub.Close())
		_, err = sub.Subscribe(t.Context(), "topic")
		require.ErrorIs(t, err, pubsub.ErrClosed)
	})
}

// The runs of a process that died are taken over by one that lives.
func TestADeadInstanceIsTakenOver(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		require.NoError(t, queue.Of(st).Subscribe(t.Context(), store.Subscription{Topic: "topic", Handler: "handler"}, ""))
		alive, err := pubsub.New(st, pubsub.Config{HeartbeatInterval: 20 * time.Millisecond, DeadAfter: 200 * time.Millisecond})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, alive.Close()) })
		require.NoError(t, alive.Publisher().Publish("topic", newMessage("x")))

		// An instance that claims and is never heard of again.
		require.NoError(t, queue.Of(st).Register(t.Context(), store.Instance{ID: "dead", HeartbeatInterval: 20 * time.Millisecond, DeadAfter: 200 * time.Millisecond}))
		claimed, err := queue.Of(st).Claim(t.Context(), queue.Claimant{Instance: "dead"}, []queue.Want{{Topic: "topic", Handler: "handler", N: 1}})
		require.NoError(t, err)
		require.Len(t, claimed, 1)

		testkit.Receive(t, subscribe(t, alive, "topic", "handler")).Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
		run := only(t, st)
		require.Equal(t, 2, run.Attempt)
		attempts, err := st.Attempts(t.Context(), run.ID)
		require.NoError(t, err)
		require.Len(t, attempts, 1)
		require.Equal(t, store.KindAbandoned, attempts[0].Kind)
		require.Equal(t, "dead", attempts[0].Instance)

		lost, err := queue.Of(st).End(t.Context(), []queue.Outcome{{Lease: queue.LeaseOf(claimed[0].Run), Status: store.Success}})
		require.NoError(t, err)
		require.Len(t, lost, 1, "the dead cannot finish what they lost")
	})
}

// Connections that are cut in the middle of the work lose nothing.
func TestCutConnectionsLoseNothing(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t)
	st := testkit.OpenStore(t, url)
	ps := newPubSub(t, st)
	messages := subscribe(t, ps, "topic", "handler")

	const n = 2000
	var handled sync.Map
	var working sync.WaitGroup
	for range 8 {
		working.Go(func() {
			for msg := range messages {
				handled.Store(msg.UUID, true)
				msg.Ack()
			}
		})
	}
	knife := testdb.Open(t, url)
	published := map[string]bool{}
	for i := range n {
		msg := newMessage(fmt.Sprint(i))
		for ps.Publisher().Publish("topic", msg) != nil { //nolint:revive // the same message again is safe
		}
		published[msg.UUID] = true
		if i%200 == 100 {
			_, err := knife.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
			require.NoError(t, err)
		}
	}
	testkit.WaitForStatus(t, st, "handler", store.Success, n)
	for id := range published {
		_, ok := handled.Load(id)
		require.True(t, ok, "event %s was not handled", id)
	}
	require.NoError(t, ps.Close())
	working.Wait()
}

func TestANackedMessageComesAgain(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		messages := subscribe(t, ps, "topic", "handler")
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.Receive(t, messages).Nack()
		testkit.Receive(t, messages).Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
		attempts, err := st.Attempts(t.Context(), only(t, st).ID)
		require.NoError(t, err)
		require.Len(t, attempts, 1)
		require.Equal(t, store.KindNack, attempts[0].Kind)
	})
}

// Several processes share a backlog, each run going to one of them.
func TestInstancesShareABacklog(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		publisher := newPubSub(t, st)
		require.NoError(t, publisher.Register("topic", "handler", again))
		const n = 300
		for range n {
			require.NoError(t, publisher.Publisher().Publish("topic", newMessage("x")))
		}
		var mu sync.Mutex
		times := map[string]int{}
		for range 3 {
			messages := subscribe(t, newPubSub(t, st), "topic", "handler")
			go func() {
				for msg := range messages {
					mu.Lock()
					times[msg.UUID]++
					mu.Unlock()
					msg.Ack()
				}
			}()
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, n)
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, times, n)
		for id, k := range times {
			require.Equal(t, 1, k, "event %s", id)
		}
	})
}

// ---

func newMessage(payload string) *message.Message {
	return message.NewMessage(watermill.NewUUID(), []byte(payload))
}

func subscribe(t *testing.T, ps *pubsub.PubSub, topic, handler string) <-chan *message.Message {
	t.Helper()
	messages, err := ps.Subscriber(handler, again).Subscribe(t.Context(), topic)
	require.NoError(t, err)
	return messages
}

func runs(t *testing.T, st *store.Store, f store.Filter) []store.Run {
	t.Helper()
	found, err := st.Runs(t.Context(), f)
	require.NoError(t, err)
	return found
}

func only(t *testing.T, st *store.Store) store.Run {
	t.Helper()
	found := runs(t, st, store.Filter{})
	require.Len(t, found, 1)
	return found[0]
}

func leased(t *testing.T, st *store.Store) []store.Run {
	t.Helper()
	var held []store.Run
	for _, run := range runs(t, st, store.Filter{Status: store.Pending}) {
		if run.DueAt.IsZero() {
			held = append(held, run)
		}
	}
	return held
}
