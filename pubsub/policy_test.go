package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/storetest"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

var (
	errWrong = errors.New("it went wrong")
	soon     = handlers.Backoff{Initial: time.Millisecond, Factor: 1, Jitter: -1}
)

// A failed run waits in the database, and its slot is another's meanwhile.
func TestARetryWaitsInTheDatabaseAndHoldsNoSlot(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		policy := handlers.Policy{Concurrency: 1, Backoff: handlers.Backoff{Initial: time.Hour, Maximum: time.Hour, Jitter: -1}}
		calls := work(t, ps, policy, func(run store.Run) error {
			if run.ID == 1 {
				return errWrong
			}
			return nil
		})
		for range 2 {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
			testkit.Receive(t, calls)
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
		run, err := st.Run(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, store.Pending, run.Status)
		require.Greater(t, time.Until(run.DueAt), 50*time.Minute)
		require.Equal(t, "it went wrong", run.Error)
		require.Equal(t, store.KindError, run.ErrorKind)
		require.NotEmpty(t, run.Fingerprint)
		require.Equal(t, 1, run.Tries)
		require.Empty(t, run.Instance)
	})
}

func TestAttemptsTimesCyclesAndThenFailed(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		calls := work(t, ps, handlers.Policy{Attempts: 2, Cycles: 3, CycleInterval: time.Millisecond, Backoff: soon}, func(run store.Run) error {
			return fmt.Errorf("attempt %d", run.Attempt)
		})
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		for i := range 6 {
			run := testkit.Receive(t, calls)
			require.Equal(t, []int{i + 1, i%2 + 1, i / 2}, []int{run.Attempt, run.Tries, run.Cycle})
		}
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		run := only(t, st)
		require.Equal(t, "attempt 6", run.Error)
		require.Equal(t, 2, run.Cycle)
		attempts := attemptsOf(t, st, run)
		require.Len(t, attempts, 6)
		for i, a := range attempts {
			require.Equal(t, fmt.Sprint("attempt ", i+1), a.Message)
			require.Equal(t, i/2, a.Cycle)
			require.Equal(t, i+1, a.Attempt)
		}
		require.Empty(t, calls)
	})
}

// A cycle that is over rests for its interval.
func TestACycleRestsForItsInterval(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		calls := work(t, ps, handlers.Policy{Attempts: 1, Cycles: 2, CycleInterval: 3 * time.Hour}, func(store.Run) error { return errWrong })
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.Receive(t, calls)
		require.Eventually(t, func() bool { return only(t, st).Cycle == 1 }, patience, time.Millisecond)
		run := only(t, st)
		require.Zero(t, run.Tries)
		require.Greater(t, time.Until(run.DueAt), 170*time.Minute)
	})
}

// How often a handler is called that always fails so, in three cycles of two.
func TestEachKindOfErrorGoesItsWay(t *testing.T) {
	for name, c := range map[string]struct {
		fail  func() error
		calls int
		kind  store.Kind
	}{
		"error":       {func() error { return errWrong }, 6, store.KindError},
		"panic":       {func() error { return &handlers.PanicError{Value: "no", Stack: "here"} }, 6, store.KindPanic},
		"skip cycle":  {func() error { return handlers.SkipCycle(errWrong) }, 3, store.KindSkipCycle},
		"permanent":   {func() error { return fmt.Errorf("so: %w", handlers.Permanent(errWrong)) }, 1, store.KindPermanent},
		"undecodable": {func() error { return handlers.Undecodable(errWrong) }, 1, store.KindUndecodable},
		"timeout":     {func() error { return &handlers.TimeoutError{Timeout: time.Second, Err: errWrong} }, 6, store.KindTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				ps := newPubSub(t, st)
				calls := work(t, ps, handlers.Policy{Attempts: 2, Cycles: 3, CycleInterval: time.Millisecond, Backoff: soon}, func(store.Run) error { return c.fail() })
				require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
				testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
				run := only(t, st)
				require.Equal(t, c.kind, run.ErrorKind)
				require.Len(t, calls, c.calls)
				attempts := attemptsOf(t, st, run)
				require.Len(t, attempts, c.calls)
				for _, a := range attempts {
					require.Equal(t, c.kind, a.Kind)
				}
			})
		})
	}
}

// A handler may wait as often as it likes: that is no failure.
func TestASnoozeCostsNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		calls := work(t, ps, handlers.Policy{Attempts: 2, Cycles: 1}, func(run store.Run) error {
			if run.Attempt < 5 {
				return fmt.Errorf("wrapped: %w", handlers.Snooze(0))
			}
			return nil
		})
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		for i := range 5 {
			run := testkit.Receive(t, calls)
			require.Equal(t, i+1, run.Attempt)
			require.Equal(t, 1, run.Tries)
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
		run := only(t, st)
		require.Empty(t, run.Error)
		require.Empty(t, attemptsOf(t, st, run))
	})
}

func TestASnoozeLastsAsLongAsItSays(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		calls := work(t, ps, handlers.Policy{}, func(store.Run) error { return handlers.Snooze(time.Hour) })
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.Receive(t, calls)
		require.Eventually(t, func() bool { return time.Until(only(t, st).DueAt) > 55*time.Minute }, patience, time.Millisecond)
		require.Zero(t, only(t, st).Tries)
	})
}

func TestAPolicyBoundsWhatRunsAtOnce(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st) // whose own bound is 16
		const n, bound = 10, 2
		var running atomic.Int64
		var once sync.Once
		full := make(chan struct{}) // as many as may be
		calls := work(t, ps, handlers.Policy{Concurrency: bound}, func(store.Run) error {
			defer running.Add(-1)
			switch k := running.Add(1); {
			case k > bound:
				t.Errorf("%d at once", k)
			case k == bound:
				once.Do(func() { close(full) })
			}
			<-full
			return nil
		})
		for range n {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, n)
		require.Len(t, calls, n)
	})
}

// Of what waits for the process's slots the higher priority goes first, however
// it was published; but nobody starves.
func TestTheHigherPriorityGoesFirst(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{MaxConcurrency: 3, PollInterval: 20 * time.Millisecond})
		low, err := ps.Subscriber("low", handlers.Policy{Priority: -1}).Subscribe(t.Context(), "low")
		require.NoError(t, err)
		var held []*message.Message
		for range 3 { // all slots
			require.NoError(t, ps.Publisher().Publish("low", newMessage("x")))
			held = append(held, testkit.Receive(t, low))
		}
		high, err := ps.Subscriber("high", handlers.Policy{Priority: 1}).Subscribe(t.Context(), "high")
		require.NoError(t, err)
		const n = 5
		require.NoError(t, ps.Publisher().Publish("high", newMessage("x")))
		running := testkit.Receive(t, high) // no slot is free, but it has none
		for range n {
			require.NoError(t, ps.Publisher().Publish("high", newMessage("x")))
			require.NoError(t, ps.Publisher().Publish("low", newMessage("x"))) // handed over, or due
			tx, err := st.DB().BeginTxx(t.Context(), nil)
			require.NoError(t, err)
			require.NoError(t, ps.PublisherTx(tx).Publish("low", newMessage("x"))) // due
			require.NoError(t, tx.Commit())
		}
		held[0].Ack()
		held[1].Ack()
		for range n {
			select {
			case msg := <-high:
				running.Ack()
				running = msg
			case <-low:
				t.Fatal("the lower priority came first")
			case <-time.After(patience):
				t.Fatal("nobody came")
			}
			// What is published now finds a slot that is free, or about to be.
			require.NoError(t, ps.Publisher().Publish("low", newMessage("x")))
		}
		running.Ack()
		held[2].Ack()
		for range 3 * n {
			testkit.Receive(t, low).Ack()
		}
		testkit.WaitForStatus(t, st, "high", store.Success, n+1)
		testkit.WaitForStatus(t, st, "low", store.Success, 3+3*n)
	})
}

// However much of a higher priority there is, a handler without a running run
// gets one.
func TestALowPriorityStillGetsItsOne(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{MaxConcurrency: 1, PollInterval: 20 * time.Millisecond})
		high, err := ps.Subscriber("high", handlers.Policy{Priority: 9}).Subscribe(t.Context(), "high")
		require.NoError(t, err)
		low, err := ps.Subscriber("low", handlers.Policy{}).Subscribe(t.Context(), "low")
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, ps.Publisher().Publish("high", newMessage("x")))
		}
		first := testkit.Receive(t, high)
		require.NoError(t, ps.Publisher().Publish("low", newMessage("x")))
		testkit.Receive(t, low).Ack()
		first.Ack()
		testkit.Receive(t, high).Ack()
		testkit.Receive(t, high).Ack()
		testkit.WaitForStatus(t, st, "high", store.Success, 3)
		testkit.WaitForStatus(t, st, "low", store.Success, 1)
	})
}

// The tables say what policy the last process came with.
func TestASubscriptionSaysItsPolicy(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		for _, attempts := range []int{2, 7} {
			policy := handlers.Policy{Attempts: attempts, Priority: attempts}
			_, err := newPubSub(t, st).Subscriber("handler", policy).Subscribe(t.Context(), "topic")
			require.NoError(t, err)
			var got string
			require.NoError(t, st.DB().Get(&got, `SELECT policy FROM `+testkit.Table(st, "subscriptions")))
			require.JSONEq(t, policy.Describe(), got)
		}
	})
}

// OnFailure is called after each cycle that failed, OnExhausted at the end:
// with the run as it failed, and as what it will be, before it is so.
func TestCallbacksAreToldInTime(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		type call struct {
			name  string
			run   store.Run
			cause error
		}
		told := make(chan call, 10)
		tell := func(name string) handlers.Callback {
			return func(ctx context.Context, run store.Run, cause error) error {
				if _, bounded := ctx.Deadline(); !bounded {
					t.Error("it has no timeout")
				}
				if now, err := st.Run(ctx, run.ID); err != nil || now.Status != store.Pending || !now.DueAt.IsZero() {
					t.Errorf("the run is no longer held when %s is called: %v %v", name, now, err)
				}
				told <- call{name, run, cause}
				return nil
			}
		}
		work(t, ps, handlers.Policy{
			Attempts: 2, Cycles: 2, CycleInterval: time.Millisecond, Backoff: soon,
			OnFailure: tell("OnFailure"), OnExhausted: tell("OnExhausted"),
		}, func(store.Run) error { return errWrong })
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		for _, want := range []struct {
			name                  string
			status                store.Status
			cycle, tries, attempt int
		}{
			{"OnFailure", store.Pending, 0, 2, 2},
			{"OnFailure", store.Failed, 1, 2, 4},
			{"OnExhausted", store.Failed, 1, 2, 4},
		} {
			got := testkit.Receive(t, told)
			require.Equal(t, want.name, got.name)
			require.Equal(t, want.status, got.run.Status)
			require.Equal(t, []int{want.cycle, want.tries, want.attempt}, []int{got.run.Cycle, got.run.Tries, got.run.Attempt})
			require.Equal(t, store.KindError, got.run.ErrorKind)
			require.Equal(t, "it went wrong", got.run.Error)
			require.ErrorIs(t, got.cause, errWrong)
		}
		require.Empty(t, told)
	})
}

func TestACallbackThatFailsIsOnRecordAndChangesNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		work(t, ps, handlers.Policy{
			Attempts: 1, Cycles: 1,
			OnFailure:   func(context.Context, store.Run, error) error { return errors.New("no mail today") },
			OnExhausted: func(context.Context, store.Run, error) error { panic("no pager") },
		}, func(store.Run) error { return errWrong })
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		run := only(t, st)
		require.Equal(t, store.KindError, run.ErrorKind)
		require.Equal(t, "it went wrong", run.Error)
		attempts := attemptsOf(t, st, run)
		require.Len(t, attempts, 2)
		require.Equal(t, store.KindCallback, attempts[1].Kind)
		require.Equal(t, "OnFailure: no mail today; OnExhausted: panic: no pager", attempts[1].Message)
		require.Contains(t, attempts[1].Stack, "policy_test.go")
		require.Equal(t, 1, attempts[1].Attempt)
	})
}

// Whoever dies while it tells of the end has not told it: the next does.
func TestACallbackWhoseProcessDiesIsCalledAgain(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		dying, survived := make(chan struct{}), make(chan struct{})
		survive := sync.OnceFunc(func() { close(survived) })
		doomed := newPubSub(t, st)
		policy := handlers.Policy{Attempts: 1, Cycles: 1, Concurrency: 1} // it takes nothing else up
		policy.OnExhausted = func(context.Context, store.Run, error) error {
			close(dying)
			<-survived
			return nil
		}
		work(t, doomed, policy, func(store.Run) error { return errWrong })
		t.Cleanup(survive)
		require.NoError(t, doomed.Publisher().Publish("topic", newMessage("x")))
		<-dying
		require.Len(t, storetest.TakeForDead(t, st), 1)

		told := make(chan store.Run, 2)
		policy.OnExhausted = func(_ context.Context, run store.Run, cause error) error {
			told <- run
			return nil
		}
		work(t, newPubSub(t, st), policy, func(store.Run) error {
			t.Error("its tries are used up, and the handler was called")
			return nil
		})
		require.Equal(t, store.Failed, testkit.Receive(t, told).Status)
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		was := only(t, st)
		survive()
		require.NoError(t, doomed.Close()) // its end is written, and does not count
		require.Equal(t, was, only(t, st))
		require.Empty(t, told)
	})
}

// A run that kills its process each time is not given to the handler for ever.
func TestARunThatWasAbandonedTooOftenIsFailed(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		const attempts = 3
		due(t, st)
		for range attempts {
			doomed := newPubSub(t, st)
			messages, err := doomed.Subscriber("handler", handlers.Policy{Attempts: attempts}).Subscribe(t.Context(), "topic")
			require.NoError(t, err)
			msg := testkit.Receive(t, messages)
			require.Len(t, storetest.TakeForDead(t, st), 1)
			msg.Ack() // it does not count any more
			require.NoError(t, doomed.Close())
			require.Equal(t, store.Pending, only(t, st).Status)
		}
		told := make(chan error, 2)
		work(t, newPubSub(t, st), handlers.Policy{Attempts: attempts, Cycles: 1, OnExhausted: func(_ context.Context, _ store.Run, cause error) error {
			told <- cause
			return nil
		}}, func(store.Run) error {
			t.Error("the handler was called")
			return nil
		})
		require.ErrorContains(t, testkit.Receive(t, told), "the process died")
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		require.Equal(t, store.KindAbandoned, only(t, st).ErrorKind)
		require.Empty(t, told)
	})
}

// A deploy that allows fewer attempts ends what has had them, by its last error.
func TestFewerAttemptsInANewDeploy(t *testing.T) {
	for name, c := range map[string]struct {
		cycles int
		want   store.Status
	}{"no cycle left": {1, store.Failed}, "a cycle left": {2, store.Success}} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				due(t, st)
				before := newPubSub(t, st)
				calls := work(t, before, handlers.Policy{Attempts: 10, Backoff: soon}, func(run store.Run) error {
					if run.Tries == 4 {
						return handlers.Snooze(500 * time.Millisecond) // while the deploy goes on
					}
					return fmt.Errorf("attempt %d", run.Attempt)
				})
				for range 4 {
					testkit.Receive(t, calls)
				}
				require.NoError(t, before.Close())

				calls = work(t, newPubSub(t, st), handlers.Policy{Attempts: 2, Cycles: c.cycles, CycleInterval: time.Millisecond}, func(store.Run) error { return nil })
				testkit.WaitForStatus(t, st, "handler", c.want, 1)
				run := only(t, st)
				if c.want == store.Failed {
					require.Empty(t, calls, "not again")
					require.Equal(t, store.KindError, run.ErrorKind)
					require.Equal(t, "attempt 3", run.Error)
				} else {
					got := testkit.Receive(t, calls)
					require.Equal(t, []int{1, 1}, []int{got.Tries, got.Cycle}, "the next cycle")
				}
			})
		})
	}
}

func TestAReplayHasAllItsTriesAgain(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		calls := work(t, ps, handlers.Policy{Attempts: 2, Cycles: 2, CycleInterval: time.Millisecond, Backoff: soon}, func(store.Run) error { return errWrong })
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		for range 4 {
			testkit.Receive(t, calls)
		}
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		_, err := replay.One(t.Context(), st, only(t, st).ID, replay.Request{})
		require.NoError(t, err)
		for i := range 4 {
			run := testkit.Receive(t, calls)
			require.Equal(t, []int{5 + i, i%2 + 1, i / 2}, []int{run.Attempt, run.Tries, run.Cycle})
		}
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		require.Len(t, attemptsOf(t, st, only(t, st)), 8, "what failed before stays on record")
	})
}

// Without middleware.Record, a nack is a failed attempt, and the policy's too.
func TestANackIsDecidedByThePolicy(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		var told atomic.Int64
		messages, err := ps.Subscriber("handler", handlers.Policy{Attempts: 2, Cycles: 1, Backoff: soon, OnExhausted: func(context.Context, store.Run, error) error {
			told.Add(1)
			return nil
		}}).Subscribe(t.Context(), "topic")
		require.NoError(t, err)
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.Receive(t, messages).Nack()
		testkit.Receive(t, messages).Nack()
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		require.Equal(t, store.KindNack, only(t, st).ErrorKind)
		require.EqualValues(t, 1, told.Load())
	})
}

// ---

// work runs f on "topic" as the handler "handler", as middleware.Record does,
// and returns the runs that it was called for.
func work(t *testing.T, ps *pubsub.PubSub, policy handlers.Policy, f func(run store.Run) error) (calls chan store.Run) {
	t.Helper()
	messages, err := ps.RecordedSubscriber("handler", policy).Subscribe(t.Context(), "topic")
	require.NoError(t, err)
	calls = make(chan store.Run, 100)
	var working sync.WaitGroup
	working.Go(func() {
		for msg := range messages {
			working.Go(func() {
				d, _ := handlers.DeliveryFrom(msg.Context())
				ctx := msg.Context()
				calls <- d.Run()
				if err := d.End(ctx, f(d.Run())); err != nil {
					t.Error(err)
				}
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, ps.Close())
		working.Wait()
	})
	return calls
}

// due makes a due run of the handler "handler", which nobody serves yet.
func due(t *testing.T, st *store.Store) {
	t.Helper()
	ps := newPubSub(t, st)
	require.NoError(t, ps.Register("topic", "handler", handlers.Policy{}))
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
	require.NoError(t, ps.Close())
}

func attemptsOf(t *testing.T, st *store.Store, run store.Run) []store.Attempt {
	t.Helper()
	attempts, err := st.Attempts(t.Context(), run.ID)
	require.NoError(t, err)
	return attempts
}

// A handler that may take all slots of the process and has nothing to do leaves
// them to those of a lower priority.
func TestAHandlerOfHigherPriorityThatHasNothingToDoTakesNoSlots(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{MaxConcurrency: 4, PollInterval: 20 * time.Millisecond})
		subscribeWith := func(handler, topic string, p handlers.Policy) <-chan *message.Message {
			messages, err := ps.Subscriber(handler, p).Subscribe(t.Context(), topic)
			require.NoError(t, err)
			return messages
		}
		subscribeWith("high", "rare", handlers.Policy{Priority: 1})
		low := subscribeWith("low", "topic", handlers.Policy{})
		tx, err := st.DB().BeginTxx(t.Context(), nil)
		require.NoError(t, err)
		for range 4 {
			require.NoError(t, ps.PublisherTx(tx).Publish("topic", newMessage("x")))
		}
		require.NoError(t, tx.Commit())
		var running []*message.Message
		for range 4 {
			running = append(running, testkit.Receive(t, low))
		}
		for _, msg := range running {
			msg.Ack()
		}
	})
}

// What a process registers is on record also when it first publishes in a
// transaction of its caller's.
func TestAPolicyIsUpdatedAfterAPublishInATransaction(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		sub := store.Subscription{Topic: "topic", Handler: "handler"}
		require.NoError(t, queue.Of(st).Subscribe(t.Context(), sub, handlers.Policy{Attempts: 2}.Describe()))
		ps, p := configured(t, st, pubsub.Config{}), handlers.Policy{Attempts: 7}
		require.NoError(t, ps.Register("topic", "handler", p))
		tx, err := st.DB().BeginTxx(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, ps.PublisherTx(tx).Publish("topic", newMessage("x")))
		require.NoError(t, tx.Commit())
		messages, err := ps.Subscriber("handler", p).Subscribe(t.Context(), "topic")
		require.NoError(t, err)
		testkit.Receive(t, messages).Ack()
		var policy string
		require.NoError(t, st.DB().Get(&policy, `SELECT policy FROM `+testkit.Table(st, "subscriptions")))
		require.Contains(t, policy, `"attempts":7`)
	})
}

// An exhausted run keeps the attempts that there were, and no other.
func TestARunThatIsGivenUpKeepsNoAttemptThatNeverWas(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{})
		require.NoError(t, ps.Register("topic", "handler", handlers.Policy{}))
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		require.NoError(t, queue.Of(st).Register(t.Context(), store.Instance{ID: "dead"}))
		claimed, err := queue.Of(st).Claim(t.Context(), queue.Claimant{Instance: "dead"}, []queue.Want{{Topic: "topic", Handler: "handler", N: 1}})
		require.NoError(t, err)
		require.Len(t, claimed, 1)
		require.Contains(t, storetest.TakeForDead(t, st), "dead")
		_, err = ps.Subscriber("handler", handlers.Policy{Attempts: 1, Cycles: 1}).Subscribe(t.Context(), "topic")
		require.NoError(t, err)
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		run := only(t, st)
		require.Equal(t, store.KindAbandoned, run.ErrorKind)
		require.NotEmpty(t, run.Fingerprint)
		attempts, err := st.Attempts(t.Context(), run.ID)
		require.NoError(t, err)
		require.Len(t, attempts, 1)
	})
}

// Close does not wait for a callback of a message that was nacked.
func TestCloseInterruptsACallback(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{GracePeriod: 50 * time.Millisecond})
		called, told := make(chan struct{}, 1), make(chan error, 1)
		messages, err := ps.Subscriber("handler", handlers.Policy{
			Attempts: 1, Cycles: 1, Timeout: -1,
			OnExhausted: func(ctx context.Context, _ store.Run, _ error) error {
				called <- struct{}{}
				<-ctx.Done()
				told <- ctx.Err()
				return ctx.Err()
			},
		}).Subscribe(t.Context(), "topic")
		require.NoError(t, err)
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.Receive(t, messages).Nack()
		testkit.Receive(t, called)
		require.NoError(t, ps.Close())
		require.ErrorIs(t, testkit.Receive(t, told), context.Canceled)
		run := only(t, st)
		require.Equal(t, store.Failed, run.Status, "what was decided stands")
		attempts, err := st.Attempts(t.Context(), run.ID)
		require.NoError(t, err)
		require.Len(t, attempts, 2)
		require.Equal(t, store.KindCallback, attempts[1].Kind)
	})
}
