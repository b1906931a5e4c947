package pubsub_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

func TestConcurrentPublishesAreAllThereOnce(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{})
		messages := subscribe(t, ps, "topic", "handler")
		callers, each := 32, 50
		if st.DB().DriverName() != "postgres" {
			each = 10 // SQLite is slow under the race detector
		}
		var mu sync.Mutex
		times := map[string]int{}
		var working sync.WaitGroup
		for range 4 {
			working.Go(func() {
				for msg := range messages {
					mu.Lock()
					times[string(msg.Payload)]++
					mu.Unlock()
					msg.Ack()
				}
			})
		}
		publishConcurrently(t, ps, callers, each)
		testkit.WaitForStatus(t, st, "handler", store.Success, callers*each)
		testkit.RequireCount(t, st, "events", callers*each)
		require.NoError(t, ps.Close())
		working.Wait()
		for c := range callers {
			for i := range each {
				require.Equal(t, 1, times[fmt.Sprint(c, "/", i)])
			}
		}
	})
}

// Concurrent calls share transactions.
func TestConcurrentPublishesAreCoalesced(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.Postgres(t))
	ps := configured(t, st, pubsub.Config{})
	require.NoError(t, ps.Register("topic", "handler", again))
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("warm")))

	// All of them call while the writers are busy with one statement each.
	const callers = 200
	release := holdEvents(t, st)
	busy(t, st, ps)
	var calls sync.WaitGroup
	calls.Go(func() { publishConcurrently(t, ps, callers, 1) })
	waitForGathered(t, ps, callers)
	release()
	calls.Wait()
	testkit.RequireCount(t, st, "events", 1+2+callers)
	var written int
	require.NoError(t, st.DB().Get(&written, `SELECT count(DISTINCT xmin::text) FROM reprise.events`))
	// The first, the two of the writers, and the next of each.
	require.LessOrEqual(t, written, 5, "transactions for %d events", 1+2+callers)
}

// One that the database or Reprise refuses fails alone.
func TestABadEventFailsOnlyItsOwnCall(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{})
		require.NoError(t, ps.Register("topic", "handler", again))
		taken := newMessage("taken")
		require.NoError(t, ps.Publisher().Publish("topic", taken))

		release := func() {}
		if st.DB().DriverName() == "postgres" {
			release = holdEvents(t, st)
			busy(t, st, ps)
		}
		invalid := newMessage("x")
		invalid.Metadata.Set("key", "\xff")
		bad := map[string]struct {
			topic string
			msg   *message.Message
		}{
			"another payload":  {"topic", message.NewMessage(taken.UUID, []byte("other"))},
			"has no topic":     {"", newMessage("x")},
			"a bad topic":      {"no line\nbreak", newMessage("x")},
			"invalid metadata": {"topic", invalid},
		}
		const good = 20
		var calls sync.WaitGroup
		for i := range good {
			calls.Go(func() {
				if err := ps.Publisher().Publish("topic", newMessage(fmt.Sprint(i))); err != nil {
					t.Errorf("a good event among bad ones: %v", err)
				}
			})
		}
		for name, b := range bad {
			calls.Go(func() {
				if err := ps.Publisher().Publish(b.topic, b.msg); err == nil {
					t.Errorf("%s: no error", name)
				}
			})
		}
		calls.Go(func() {
			if err := ps.Publisher().Publish("topic", taken.Copy()); err != nil {
				t.Errorf("the same message again: %v", err)
			}
		})
		if st.DB().DriverName() == "postgres" {
			waitForGathered(t, ps, good+2) // the good ones, another payload, and the same message again
		}
		release()
		calls.Wait()

		var n int
		require.NoError(t, st.DB().Get(&n, `SELECT count(*) FROM `+testkit.Table(st, "events")+` WHERE topic = 'topic'`))
		require.Equal(t, 1+good, n)
		var r int
		require.NoError(t, st.DB().Get(&r, `SELECT count(*) FROM `+testkit.Table(st, "handler_runs")+` WHERE topic = 'topic'`))
		require.Equal(t, 1+good, r)
	})
}

// Of two calls that give one id to two payloads, one succeeds: its payload is
// in the database, and with the handler.
func TestTheHandlerGetsWhatTheDatabaseHas(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.Postgres(t))
	ps := configured(t, st, pubsub.Config{})
	messages := subscribe(t, ps, "topic", "handler")
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("warm")))
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 1)
	require.NoError(t, ps.Publisher().Publish("another.topic", newMessage("warm")))

	release := holdEvents(t, st)
	busy(t, st, ps)
	id := newMessage("").UUID
	var calls sync.WaitGroup
	var mu sync.Mutex
	var succeeded []string
	for _, payload := range []string{"a", "b", "c", "d"} {
		calls.Go(func() {
			if ps.Publisher().Publish("topic", message.NewMessage(id, []byte(payload))) == nil {
				mu.Lock()
				succeeded = append(succeeded, payload)
				mu.Unlock()
			}
		})
	}
	waitForGathered(t, ps, 4)
	release()
	calls.Wait()
	msg := testkit.Receive(t, messages)
	require.Equal(t, id, msg.UUID)
	msg.Ack()
	event, err := st.Event(t.Context(), "topic", id)
	require.NoError(t, err)
	require.Equal(t, []string{string(event.Payload)}, succeeded)
	require.Equal(t, string(event.Payload), string(msg.Payload))
}

// A caller that does not want to wait any longer does not, and is told the truth.
func TestACancelledPublishReturnsAtOnceAndSaysWhatBecameOfIt(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.Postgres(t))
	ps := configured(t, st, pubsub.Config{})
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("warm")))
	release := holdEvents(t, st)

	underWay, cancelFirst := publishing(t, ps)
	waitForBlocked(t, st, 1) // its statement
	busy(t, st, ps)
	queued, cancelSecond := publishing(t, ps)
	waitForGathered(t, ps, 1) // it waits its turn

	cancelFirst()
	err := testkit.Receive(t, underWay.err)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "may have been written")
	cancelSecond()
	err = testkit.Receive(t, queued.err)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "nothing was written")

	release()
	require.Eventually(t, func() bool {
		_, err := st.Event(t.Context(), "topic", underWay.msg.UUID)
		return err == nil
	}, patience, time.Millisecond)
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("after all of them")))
	require.NoError(t, ps.Close()) // nothing is being written any more
	_, err = st.Event(t.Context(), "topic", queued.msg.UUID)
	require.ErrorIs(t, err, store.ErrNotFound)
	underWay.msg.SetContext(t.Context())
	require.NoError(t, ps.Publisher().Publish("topic", underWay.msg), "again, to be sure")
}

// ---

func publishConcurrently(t *testing.T, ps *pubsub.PubSub, callers, each int) {
	t.Helper()
	var publishing sync.WaitGroup
	for c := range callers {
		publishing.Go(func() {
			for i := range each {
				if err := ps.Publisher().Publish("topic", newMessage(fmt.Sprint(c, "/", i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishing.Wait()
}

// holdEvents makes whoever publishes wait until release.
func holdEvents(t *testing.T, st *store.Store) (release func()) {
	t.Helper()
	tx, err := st.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	tx.MustExec(`LOCK TABLE reprise.events IN EXCLUSIVE MODE`)
	return func() { require.NoError(t, tx.Commit()) }
}

// busy gives the writers, which wait for holdEvents, work until release: what
// is published from then on gathers.
func busy(t *testing.T, st *store.Store, ps *pubsub.PubSub) {
	t.Helper()
	const writers = 2
	for n := blocked(t, st); n < writers; n++ {
		go func() { _ = ps.Publisher().Publish("another.topic", newMessage("busy")) }()
		waitForBlocked(t, st, n+1)
	}
}

func waitForBlocked(t *testing.T, st *store.Store, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return blocked(t, st) == n }, patience, time.Millisecond)
}

func blocked(t *testing.T, st *store.Store) (n int) {
	t.Helper()
	require.NoError(t, sqlx.Get(st.DB(), &n, `SELECT count(*) FROM pg_locks WHERE NOT granted
		AND relation = 'reprise.events'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`))
	return n
}

// waitForGathered waits until so many publishes wait to be written together.
func waitForGathered(t *testing.T, ps *pubsub.PubSub, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return ps.Gathered() == n }, patience, time.Millisecond, "want %d, have %d", n, ps.Gathered())
}

type published struct {
	msg *message.Message
	err chan error
}

func publishing(t *testing.T, ps *pubsub.PubSub) (published, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	p := published{newMessage(strings.Repeat("x", 10)), make(chan error, 1)}
	p.msg.SetContext(ctx)
	go func() { p.err <- ps.Publisher().Publish("topic", p.msg) }()
	return p, cancel
}

// A publish is all or nothing, whatever its size.
func TestASmallPublishIsAllOrNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{})
		require.NoError(t, ps.Register("topic", "handler", again))
		taken := newMessage("taken")
		require.NoError(t, ps.Publisher().Publish("topic", taken))
		err := ps.Publisher().Publish("topic", newMessage("new"), message.NewMessage(taken.UUID, []byte("other")))
		require.ErrorIs(t, err, store.ErrDuplicateID)
		testkit.RequireCount(t, st, "events", 1)

		twice := newMessage("one")
		err = ps.Publisher().Publish("topic", twice, message.NewMessage(twice.UUID, []byte("other")))
		require.ErrorIs(t, err, store.ErrDuplicateID)
		testkit.RequireCount(t, st, "events", 1)
	})
}
