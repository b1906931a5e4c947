package pubsub_test

import (
	"context"
	"database/sql/driver"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// lateClaim is a PubSub of three slots, of which the handlers high and low hold
// one each, and a claim that has leased the run waiting of low and does not say
// so yet.
type lateClaim struct {
	st          *store.Store
	ps          *pubsub.PubSub
	high, low   <-chan *message.Message
	highRunning *message.Message
	lowRunning  *message.Message
	waiting     *message.Message
	answer      *testdb.Stop
}

func newLateClaim(t *testing.T, url string) *lateClaim {
	t.Helper()
	c := &lateClaim{}
	var gate *testdb.Gate
	c.st, gate = openGatedStore(t, url)
	c.ps = configured(t, c.st, pubsub.Config{MaxConcurrency: 3, PollInterval: noPoll})
	warm := subscribe(t, c.ps, "warm", "warm")
	var err error
	c.high, err = c.ps.Subscriber("high", handlers.Policy{Priority: 1}).Subscribe(t.Context(), "high")
	require.NoError(t, err)
	c.low, err = c.ps.Subscriber("low", handlers.Policy{Priority: -1}).Subscribe(t.Context(), "low")
	require.NoError(t, err)
	for range 8 { // from then on no statement is prepared anew, until there are twice as many runs
		require.NoError(t, c.ps.Publisher().Publish("warm", newMessage("x")))
		testkit.Receive(t, warm).Ack()
	}
	testkit.WaitForStatus(t, c.st, "warm", store.Success, 8)
	require.NoError(t, c.ps.Publisher().Publish("high", newMessage("running")))
	c.highRunning = testkit.Receive(t, c.high)
	require.NoError(t, c.ps.Publisher().Publish("low", newMessage("running")))
	c.lowRunning = testkit.Receive(t, c.low)

	waitUntilNothingWaits(t, c.ps)

	// A claim finds nothing and does not say so yet. The run that comes now is the
	// next claim's.
	nothing := gate.After(isClaim)
	subscribe(t, c.ps, "another", "another")
	nothing.Wait(t)
	c.waiting = newMessage("waiting")
	tx, err := c.st.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, c.ps.PublisherTx(tx).Publish("low", c.waiting))
	require.NoError(t, tx.Commit())
	if queue.Of(c.st).LeasesOnInsert() {
		c.answer = gate.After(func(query string, args []driver.NamedValue) bool { return isClaim(query, args) && has(args, `{"low"}`) })
	} else {
		leases := false
		c.answer = gate.After(func(query string, args []driver.NamedValue) bool {
			leases = leases || has(args, "low") && strings.Contains(query, "RETURNING")
			return leases && query == "COMMIT"
		})
	}
	nothing.Release()
	c.answer.Wait(t)
	return c
}

// isClaim says whether a claim begins with the statement.
func isClaim(query string, _ []driver.NamedValue) bool {
	return strings.Contains(query, "SKIP LOCKED") || strings.Contains(query, "SELECT EXISTS (SELECT 1 FROM reprise_handler_runs WHERE due_at")
}

// has says whether one of the arguments is the value.
func has(args []driver.NamedValue, value string) bool {
	for _, a := range args {
		if a.Value == value {
			return true
		}
	}
	return false
}

func (c *lateClaim) finish(t *testing.T, running ...*message.Message) {
	t.Helper()
	for _, msg := range running {
		msg.Ack()
	}
}

// waitingRun is the run that the late claim leases.
func (c *lateClaim) waitingRun(t *testing.T) store.Run {
	t.Helper()
	for _, run := range runs(t, c.st, store.Filter{Handler: "low"}) {
		if run.EventID == c.waiting.UUID {
			return run
		}
	}
	t.Fatal("no run waits")
	panic("unreachable")
}

// What Publish and InTx have published is not overtaken by a run of a lower
// priority that a claim has leased meanwhile: that one is given back, and costs
// no try.
func TestAClaimUnderWayDoesNotOvertakeAHigherPriority(t *testing.T) {
	for name, publish := range map[string]func(ps *pubsub.PubSub, msg *message.Message) error{
		"Publish": func(ps *pubsub.PubSub, msg *message.Message) error { return ps.Publisher().Publish("high", msg) },
		"InTx": func(ps *pubsub.PubSub, msg *message.Message) error {
			return ps.InTx(context.Background(), func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish("high", msg) })
		},
		"a large Publish": func(ps *pubsub.PubSub, msg *message.Message) error {
			return ps.Publisher().Publish("high", msg, newMessage(strings.Repeat("x", 8<<20))) // more than one statement takes
		},
	} {
		t.Run(name, func(t *testing.T) { // on SQLite a claim and a publish of one process take turns
			t.Parallel()
			c := newLateClaim(t, testdb.Postgres(t))
			// The last slot goes to a run that is handed over, and a slot becomes free.
			require.NoError(t, c.ps.Publisher().Publish("low", newMessage("handed over")))
			running := []*message.Message{c.highRunning, testkit.Receive(t, c.low)}
			first := newMessage("first")
			require.NoError(t, publish(c.ps, first))
			var held int
			require.NoError(t, c.st.DB().Get(&held, `SELECT count(*) FROM reprise.handler_runs WHERE status = 'PENDING' AND due_at IS NULL`))
			require.Equal(t, 4, held, "all slots, and the run that the claim has leased")
			c.lowRunning.Ack()
			c.answer.Release()
			select {
			case msg := <-c.high:
				require.Equal(t, first.UUID, msg.UUID)
				running = append(running, msg)
			case <-c.low:
				t.Fatal("the lower priority came first")
			case <-time.After(patience):
				t.Fatal("neither came")
			}
			require.Eventually(t, func() bool { return c.waitingRun(t).Attempt == 1 && !c.waitingRun(t).DueAt.IsZero() },
				patience, time.Millisecond, "the claim has leased it, and it was not given back")
			require.Zero(t, c.waitingRun(t).Tries)
			c.finish(t, running...)
			high := 2
			if name == "a large Publish" {
				testkit.Receive(t, c.high).Ack()
				high++
			}
			msg := testkit.Receive(t, c.low)
			require.Equal(t, c.waiting.UUID, msg.UUID)
			msg.Ack()
			testkit.WaitForStatus(t, c.st, "high", store.Success, high)
			testkit.WaitForStatus(t, c.st, "low", store.Success, 3)
			require.Equal(t, 1, c.waitingRun(t).Tries)
		})
	}
}

// What becomes due in another way counts from the next claim: the claim under
// way goes first.
func TestAClaimUnderWayGoesBeforeWhatACallersTransactionPublishes(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		c := newLateClaim(t, url)
		tx, err := c.st.DB().BeginTxx(t.Context(), nil)
		require.NoError(t, err)
		second := newMessage("second")
		require.NoError(t, c.ps.PublisherTx(tx).Publish("high", second))
		require.NoError(t, tx.Commit())
		c.answer.Release()
		first := testkit.Receive(t, c.low)
		require.Equal(t, c.waiting.UUID, first.UUID)
		for _, run := range runs(t, c.st, store.Filter{Handler: "high"}) {
			require.True(t, run.EventID != second.UUID || !run.DueAt.IsZero(), "it waits for a slot")
		}
		// From now on it counts.
		require.NoError(t, c.ps.Publisher().Publish("low", newMessage("third")))
		c.lowRunning.Ack()
		select {
		case msg := <-c.high:
			require.Equal(t, second.UUID, msg.UUID)
			c.finish(t, msg, c.highRunning, first)
		case <-c.low:
			t.Fatal("the lower priority came first")
		case <-time.After(patience):
			t.Fatal("neither came")
		}
		testkit.Receive(t, c.low).Ack()
		testkit.WaitForStatus(t, c.st, "high", store.Success, 2)
		testkit.WaitForStatus(t, c.st, "low", store.Success, 3)
	})
}

// A handler whose own slots are all taken keeps no slot of the process from
// others, whatever its priority.
func TestAHandlerThatWaitsForItsOwnSlotsKeepsNoOther(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{MaxConcurrency: 3, PollInterval: noPoll})
		high, err := ps.Subscriber("high", handlers.Policy{Priority: 1, Concurrency: 1}).Subscribe(t.Context(), "high")
		require.NoError(t, err)
		low := subscribe(t, ps, "low", "low")
		for range 3 {
			require.NoError(t, ps.Publisher().Publish("high", newMessage("x")))
		}
		running := testkit.Receive(t, high) // two wait
		for range 2 {
			require.NoError(t, ps.Publisher().Publish("low", newMessage("x")))
		}
		first, second := testkit.Receive(t, low), testkit.Receive(t, low)
		for _, msg := range []*message.Message{running, first, second} {
			msg.Ack()
		}
		for range 2 {
			testkit.Receive(t, high).Ack()
		}
		testkit.WaitForStatus(t, st, "high", store.Success, 3)
		testkit.WaitForStatus(t, st, "low", store.Success, 2)
	})
}
