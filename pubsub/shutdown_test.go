package pubsub_test

import (
	"context"
	"log/slog"
	"sync"
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

// What runs may end; what waits does not begin any more, and is another's at
// once.
func TestOnCloseNothingBeginsAndOthersGoOn(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{Concurrency: 2})
		messages := subscribe(t, ps, "topic", "handler")
		var running []*message.Message
		for range 2 {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
			running = append(running, testkit.Receive(t, messages))
		}
		for range 3 {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		}
		closed := make(chan error, 1)
		go func() { closed <- ps.Close() }()
		for range messages {
			t.Error("one began")
		}
		running[0].Ack() // its slot is free now
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
		require.NoError(t, running[1].Context().Err(), "it may go on")

		others := subscribe(t, newPubSub(t, st), "topic", "handler")
		for range 3 {
			testkit.Receive(t, others).Ack()
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, 4)
		running[1].Ack()
		require.NoError(t, testkit.Receive(t, closed))
		testkit.WaitForStatus(t, st, "handler", store.Success, 5)
		for _, run := range runs(t, st, store.Filter{}) {
			require.Equal(t, 1, run.Tries)
			require.Empty(t, attemptsOf(t, st, run))
		}
	})
}

// A failure within the grace period is one like any other.
func TestAFailureWhileClosingIsThePolicys(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{})
		finish := make(chan struct{})
		calls := work(t, ps, handlers.Policy{Backoff: handlers.Backoff{Initial: time.Hour, Maximum: time.Hour}}, func(store.Run) error {
			<-finish
			return errWrong
		})
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.Receive(t, calls)
		closed := make(chan error, 1)
		go func() { closed <- ps.Close() }()
		close(finish)
		require.NoError(t, testkit.Receive(t, closed))
		run := only(t, st)
		require.Equal(t, store.KindError, run.ErrorKind)
		require.Equal(t, 1, run.Tries)
		require.Greater(t, time.Until(run.DueAt), 30*time.Minute)
	})
}

// Whatever a handler says that had not ended in time, and was cancelled: it is
// no success, no failure, and costs no try.
func TestWhatWasInterruptedDoesNotCount(t *testing.T) {
	for name, late := range map[string]error{"success": nil, "error": errWrong, "permanent": handlers.Permanent(errWrong)} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				ps, err := pubsub.New(st, pubsub.Config{GracePeriod: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				policy := handlers.Policy{Attempts: 1, Cycles: 1, OnExhausted: func(context.Context, store.Run, error) error {
					t.Error("it is not exhausted")
					return nil
				}}
				messages, err := ps.RecordedSubscriber("handler", policy).Subscribe(t.Context(), "topic")
				require.NoError(t, err)
				require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
				msg := testkit.Receive(t, messages)
				delivery, _ := handlers.DeliveryFrom(msg.Context())
				ended := make(chan error, 1)
				go func() {
					<-msg.Context().Done()
					ended <- delivery.End(msg.Context(), late)
				}()
				require.NoError(t, ps.Close())
				require.NoError(t, testkit.Receive(t, ended))

				run := only(t, st)
				require.Equal(t, store.Pending, run.Status)
				require.Zero(t, run.Tries)
				require.False(t, run.DueAt.IsZero())
				require.False(t, run.DueAt.After(time.Now().Add(time.Second)), "at once")
				attempts := attemptsOf(t, st, run)
				require.Len(t, attempts, 1)
				require.Equal(t, store.KindInterrupted, attempts[0].Kind)
				require.Contains(t, attempts[0].Message, "had not ended after 50ms")

				calls := work(t, newPubSub(t, st), policy, func(store.Run) error { return nil })
				again := testkit.Receive(t, calls)
				require.Equal(t, []int{2, 1, 0}, []int{again.Attempt, again.Tries, again.Cycle})
				testkit.WaitForStatus(t, st, "handler", store.Success, 1)
			})
		})
	}
}

func TestSeveralMayClose(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{})
		sub := ps.Subscriber("handler", again)
		messages, err := sub.Subscribe(t.Context(), "topic")
		require.NoError(t, err)
		for range 5 {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		}
		msg := testkit.Receive(t, messages)
		var closing sync.WaitGroup
		for range 4 {
			for _, closer := range []func() error{ps.Close, sub.Close} {
				closing.Go(func() {
					if err := closer(); err != nil {
						t.Error(err)
					}
				})
			}
		}
		msg.Ack()
		for msg := range messages {
			msg.Ack()
		}
		closing.Wait()
		require.NoError(t, ps.Close())
		require.Eventually(t, func() bool { return len(leased(t, st)) == 0 }, patience, time.Millisecond)
		requireNothingHeldByNobody(t, st)
		testkit.RequireCount(t, st, "instances", 0)
	})
}

// Whose database is away can still close, and says what it could not do.
func TestCloseWithoutADatabaseSaysSo(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	direct := testkit.OpenStore(t, address)
	w, through := newWire(t, address)
	ps, err := pubsub.New(testkit.OpenStore(t, through), pubsub.Config{GracePeriod: time.Second, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	handleOne(t, direct, ps, subscribe(t, ps, "topic", "handler"), 1)
	w.sever()
	closed := make(chan error, 1)
	go func() { closed <- ps.Close() }()
	err = testkit.Receive(t, closed)
	require.Error(t, err)
	require.Regexp(t, "deregister instance|did not take the end", err.Error()) // by whether it heard of the end
}
