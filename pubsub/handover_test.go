package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// What comes within a test's patience was not found by this poll.
const noPoll = time.Hour

// A free slot takes the run as the statement that publishes it makes it.
func TestAPublishedMessageIsHandedOverWithoutAClaim(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.Postgres(t))
	ps := configured(t, st, pubsub.Config{PollInterval: noPoll})
	messages := subscribe(t, ps, "topic", "handler")
	waitUntilNothingWaits(t, ps)
	sent := newMessage("x")
	require.NoError(t, ps.Publisher().Publish("topic", sent))
	msg := testkit.Receive(t, messages)
	require.Equal(t, sent.UUID, msg.UUID)
	require.Equal(t, sent.Payload, msg.Payload)

	run := only(t, st)
	require.Equal(t, store.Pending, run.Status, "while the handler runs")
	require.Equal(t, 1, run.Attempt)
	require.True(t, run.DueAt.IsZero(), "leased")
	var instance string
	require.NoError(t, st.DB().GetContext(t.Context(), &instance, `SELECT id FROM reprise.instances`))
	require.Equal(t, instance, run.Instance)
	event, err := st.Event(t.Context(), "topic", sent.UUID)
	require.NoError(t, err)
	require.Equal(t, event.PublishedAt, run.StartedAt, "one transaction published the event and leased the run")

	msg.Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 1)
	require.Equal(t, 1, only(t, st).Attempt)
}

// Whatever the database: nobody waits for the poll.
func TestAPublishedMessageArrivesAtOnce(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{PollInterval: noPoll, Concurrency: 1})
		messages := subscribe(t, ps, "topic", "handler")
		for range 5 { // more than there are slots
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		}
		for range 5 {
			testkit.Receive(t, messages).Ack()
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, 5)
	})
}

func TestInTxDeliversRightAfterTheCommit(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{PollInterval: noPoll})
		messages := subscribe(t, ps, "topic", "handler")
		require.NoError(t, ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
			return ps.PublisherTx(tx).Publish("topic", newMessage("a"), newMessage("b"))
		}))
		testkit.Receive(t, messages).Ack()
		testkit.Receive(t, messages).Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 2)
	})
}

func TestInTxDeliversNothingBeforeTheCommit(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.Postgres(t))
	ps := configured(t, st, pubsub.Config{PollInterval: time.Millisecond})
	messages := subscribe(t, ps, "topic", "handler")
	var inside *message.Message
	require.NoError(t, ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
		inside = newMessage("inside")
		require.NoError(t, ps.PublisherTx(tx).Publish("topic", inside))
		for range 3 { // what comes after it, and is committed, comes first
			other := newMessage("meanwhile")
			require.NoError(t, ps.Publisher().Publish("topic", other))
			msg := testkit.Receive(t, messages)
			require.Equal(t, other.UUID, msg.UUID)
			msg.Ack()
		}
		return nil
	}))
	msg := testkit.Receive(t, messages)
	require.Equal(t, inside.UUID, msg.UUID)
	msg.Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 4)
}

// A transaction that comes to nothing delivers nothing and gives its slots back.
func TestInTxDeliversNothingAfterARollback(t *testing.T) {
	const slots = 3
	failure := errors.New("no")
	for name, fail := range map[string]func(context.CancelFunc, *pubsub.Transaction) error{
		"error":     func(context.CancelFunc, *pubsub.Transaction) error { return failure },
		"panic":     func(context.CancelFunc, *pubsub.Transaction) error { panic(failure) },
		"rollback":  func(_ context.CancelFunc, tx *pubsub.Transaction) error { return tx.Rollback() },
		"cancelled": func(cancel context.CancelFunc, _ *pubsub.Transaction) error { cancel(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				ps := configured(t, st, pubsub.Config{PollInterval: noPoll, Concurrency: slots})
				messages := subscribe(t, ps, "topic", "handler")
				for range 3 {
					inTx := func() error {
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						return ps.InTx(ctx, func(tx *pubsub.Transaction) error {
							for range slots {
								require.NoError(t, ps.PublisherTx(tx).Publish("topic", newMessage("never")))
							}
							return fail(cancel, tx)
						})
					}
					if name == "panic" {
						require.PanicsWithValue(t, failure, func() { _ = inTx() })
					} else {
						require.Error(t, inTx())
					}
				}
				testkit.RequireCount(t, st, "events", 0)

				want := map[string]bool{}
				for range slots {
					msg := newMessage("x")
					want[msg.UUID] = true
					require.NoError(t, ps.Publisher().Publish("topic", msg))
				}
				got := map[string]bool{}
				var held []*message.Message
				for range slots { // all at once: none is acked yet
					msg := testkit.Receive(t, messages)
					got[msg.UUID] = true
					held = append(held, msg)
				}
				require.Equal(t, want, got)
				for _, msg := range held {
					msg.Ack()
				}
				testkit.WaitForStatus(t, st, "handler", store.Success, slots)
			})
		})
	}
}

// Not what InTx is for; but what was committed is not lost.
func TestWhatIsCommittedInsideInTxIsDelivered(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		messages := subscribe(t, ps, "topic", "handler")
		require.Error(t, ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
			require.NoError(t, ps.PublisherTx(tx).Publish("topic", newMessage("x")))
			return tx.Commit()
		}))
		testkit.Receive(t, messages).Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
	})
}

// A publish that is refused inside InTx writes nothing and keeps no slot, also
// when f goes on regardless; on PostgreSQL the transaction is then over.
func TestInTxThatGoesOnAfterADuplicateLosesNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{Concurrency: 1})
		messages := subscribe(t, ps, "topic", "handler")
		taken := newMessage("taken")
		require.NoError(t, ps.Publisher().Publish("topic", taken))
		testkit.Receive(t, messages).Ack()
		err := ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
			err := ps.PublisherTx(tx).Publish("topic", newMessage("x"), message.NewMessage(taken.UUID, []byte("other")))
			require.ErrorIs(t, err, store.ErrDuplicateID)
			return nil
		})
		require.Equal(t, queue.Of(st).LeasesOnInsert(), err != nil)
		testkit.RequireCount(t, st, "events", 1)

		next := newMessage("next")
		require.NoError(t, ps.Publisher().Publish("topic", next))
		msg := testkit.Receive(t, messages)
		require.Equal(t, next.UUID, msg.UUID)
		msg.Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 2)
	})
}

func TestPublishTxIsDeliveredSoonAfterTheCallersCommit(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st, gate := openGatedStore(t, url)
		ps := configured(t, st, pubsub.Config{PollInterval: noPoll})
		messages := subscribe(t, ps, "topic", "handler")
		for range 5 { // one soon after the other: not each has a notice of its own
			tx, err := st.DB().BeginTxx(t.Context(), nil)
			require.NoError(t, err)
			require.NoError(t, ps.PublisherTx(tx).Publish("topic", newMessage("x")))
			require.NoError(t, tx.Commit())
		}
		for range 5 {
			testkit.Receive(t, messages).Ack()
		}

		tx, err := st.DB().BeginTxx(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, ps.PublisherTx(tx).Publish("topic", newMessage("x")))
		inVain := gate.After(isClaim)
		inVain.Wait(t) // it has been looked for, and is not there
		require.NoError(t, tx.Commit())
		inVain.Release()
		testkit.Receive(t, messages).Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 6)
	})
}

// What waits goes first, however much is published meanwhile.
func TestNewerEventsDoNotOvertakeABacklog(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{Concurrency: 1, PollInterval: noPoll})
		messages := subscribe(t, ps, "topic", "handler")
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("first")))
		first := testkit.Receive(t, messages)

		const backlog, later = 20, 40
		var order []string
		for i := range backlog {
			order = append(order, fmt.Sprintf("waiting %d", i))
			require.NoError(t, ps.Publisher().Publish("topic", newMessage(order[i])))
		}
		// Two publishers go on without a pause until the backlog is gone: events are
		// published while each of the waiting ones is handled.
		var publishing sync.WaitGroup
		var published atomic.Int64
		gone := make(chan struct{})
		for range 2 {
			publishing.Go(func() {
				for {
					select {
					case <-gone:
						return
					default:
					}
					if err := ps.Publisher().Publish("topic", newMessage("newer")); err != nil {
						t.Error(err)
						return
					}
					published.Add(1)
				}
			})
		}
		require.Eventually(t, func() bool { return published.Load() >= later }, patience, time.Millisecond)
		first.Ack()
		for i := range backlog {
			msg := testkit.Receive(t, messages)
			require.Equal(t, order[i], string(msg.Payload))
			before := published.Load()
			require.Eventually(t, func() bool { return published.Load() > before }, patience, time.Millisecond)
			msg.Ack()
		}
		close(gone)
		publishing.Wait()
		left := int(published.Load())
		for range left {
			testkit.Receive(t, messages).Ack()
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, 1+backlog+left)
	})
}

// Nor do they when the handler has only just come: what was published before goes
// first, though no claim has looked for it yet.
func TestNewerEventsDoNotOvertakeWhatWaitedForTheHandler(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st, gate := openGatedStore(t, url)
		ps := configured(t, st, pubsub.Config{Concurrency: 1, PollInterval: noPoll})
		require.NoError(t, ps.Register("topic", "handler", again))
		for i := range 3 {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage(fmt.Sprint(i))))
		}
		claim := gate.Before(isClaim)
		messages := subscribe(t, ps, "topic", "handler")
		claim.Wait(t)
		published := make(chan error, 1)
		go func() { published <- ps.Publisher().Publish("topic", newMessage("3")) }()
		if queue.Of(st).LeasesOnInsert() { // on SQLite a publish waits for the claim
			require.NoError(t, testkit.Receive(t, published))
		}
		claim.Release()
		for i := range 4 {
			msg := testkit.Receive(t, messages)
			require.Equal(t, fmt.Sprint(i), string(msg.Payload))
			msg.Ack()
		}
		if !queue.Of(st).LeasesOnInsert() {
			require.NoError(t, testkit.Receive(t, published))
		}
	})
}

// The limits hold for runs that are handed over, in both ways, and claimed.
func TestLimitsAreNeverExceeded(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		const (
			each, all = 3, 4
			handlers  = 3
			n         = 120
		)
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{Concurrency: each, MaxConcurrency: all, PollInterval: 5 * time.Millisecond})
		elsewhere := configured(t, st, pubsub.Config{})
		var total, most atomic.Int64
		var fullOnce sync.Once
		full := make(chan struct{})
		var working sync.WaitGroup
		for h := range handlers {
			topic, handler := fmt.Sprintf("topic-%d", h), fmt.Sprintf("handler-%d", h)
			messages := subscribe(t, ps, topic, handler)
			var own atomic.Int64
			for range 2 * each {
				working.Go(func() {
					for msg := range messages {
						if k := own.Add(1); k > each {
							t.Errorf("%d runs of %s at once, want at most %d", k, handler, each)
						}
						k := total.Add(1)
						for m := most.Load(); k > m && !most.CompareAndSwap(m, k); m = most.Load() {
						}
						if k >= all {
							fullOnce.Do(func() { close(full) })
						}
						<-full // until all slots are taken
						own.Add(-1)
						total.Add(-1)
						msg.Ack()
					}
				})
			}
		}
		var publishing sync.WaitGroup
		for h := range handlers {
			topic := fmt.Sprintf("topic-%d", h)
			for way, publish := range []func(*message.Message) error{
				func(msg *message.Message) error { return ps.Publisher().Publish(topic, msg) },
				func(msg *message.Message) error { return elsewhere.Publisher().Publish(topic, msg) },
				func(msg *message.Message) error {
					return ps.InTx(t.Context(), func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish(topic, msg) })
				},
			} {
				publishing.Go(func() {
					for i := range n / 3 {
						if err := publish(newMessage(fmt.Sprint(way, i))); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		publishing.Wait()
		for h := range handlers {
			testkit.WaitForStatus(t, st, fmt.Sprintf("handler-%d", h), store.Success, n)
		}
		require.NoError(t, ps.Close())
		working.Wait()
		require.GreaterOrEqual(t, most.Load(), int64(all), "the limit was reached")
		// A handler without a run may begin one: all but one may do that.
		require.LessOrEqual(t, most.Load(), int64(all+handlers-1))
	})
}

// Whatever is on its way while the process shuts down is handled by the next.
func TestCloseWhileOthersPublishLosesNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		const n = 60 // before the end, by all publishers
		var mu sync.Mutex
		times, published := map[string]int{}, map[string]bool{}
		closed := make(chan struct{})
		handle := func(messages <-chan *message.Message) {
			for msg := range messages {
				mu.Lock()
				times[msg.UUID]++
				mu.Unlock()
				msg.Ack()
			}
		}
		var working sync.WaitGroup
		ps := configured(t, st, pubsub.Config{Concurrency: 4})
		messages := subscribe(t, ps, "topic", "handler")
		for range 4 {
			working.Go(func() { handle(messages) })
		}
		var publishing sync.WaitGroup
		var count atomic.Int64
		for p := range 8 {
			publishing.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-closed:
						return
					default:
					}
					msg := newMessage("x")
					publish := ps.Publisher().Publish
					if p%2 == 1 {
						publish = func(topic string, msgs ...*message.Message) error {
							return ps.InTx(t.Context(), func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish(topic, msgs...) })
						}
					}
					if err := publish("topic", msg); err != nil {
						t.Errorf("publish %d: %v", i, err)
						continue
					}
					mu.Lock()
					published[msg.UUID] = true
					mu.Unlock()
					count.Add(1)
				}
			})
		}
		require.Eventually(t, func() bool { return count.Load() > n }, patience, time.Millisecond)
		require.NoError(t, ps.Close())
		close(closed)
		publishing.Wait()
		working.Wait()
		requireNothingHeldByNobody(t, st)

		next := configured(t, st, pubsub.Config{})
		messages = subscribe(t, next, "topic", "handler")
		working.Go(func() { handle(messages) })
		testkit.WaitForStatus(t, st, "handler", store.Success, len(published))
		require.NoError(t, next.Close())
		working.Wait()
		requireNothingHeldByNobody(t, st)
		require.Len(t, times, len(published))
		for id := range published {
			require.Equal(t, 1, times[id], "event %s", id)
		}
	})
}

// Close does not wait for publishers that never stop.
func TestCloseReturnsWhileOthersPublishWithoutEnd(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{})
		messages := subscribe(t, ps, "topic", "handler")
		go func() {
			for msg := range messages {
				msg.Ack()
			}
		}()
		var publishing sync.WaitGroup
		var count atomic.Int64
		stop := make(chan struct{})
		for range 8 {
			publishing.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := ps.Publisher().Publish("topic", newMessage("x")); err != nil {
						t.Error(err)
						return
					}
					count.Add(1)
				}
			})
		}
		require.Eventually(t, func() bool { return count.Load() > 100 }, patience, time.Millisecond)
		closed := make(chan error, 1)
		go func() { closed <- ps.Close() }()
		select {
		case err := <-closed:
			require.NoError(t, err)
		case <-time.After(patience):
			t.Error("Close has not returned")
		}
		close(stop)
		publishing.Wait()
	})
}

// Publishing by many while every connection is cut, again and again.
func TestHandoversOverCutConnectionsLoseNothing(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t)
	st := testkit.OpenStore(t, url)
	ps := newPubSub(t, st)
	messages := subscribe(t, ps, "topic", "handler")
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
	const publishers, each = 8, 150
	knife := testdb.Open(t, url)
	var published sync.Map
	var count, accepted atomic.Int64
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for range each {
				msg := newMessage("x")
				var err error
				if p%4 == 3 {
					err = ps.InTx(t.Context(), func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish("topic", msg) })
				} else {
					err = ps.Publisher().Publish("topic", msg)
				}
				if err == nil {
					published.Store(msg.UUID, true)
					accepted.Add(1)
				}
				if count.Add(1)%100 == 50 {
					_, err := knife.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
					if err != nil && accepted.Load() == 0 {
						t.Error(err) // two knives may cut each other, but not always
					}
				}
			}
		})
	}
	publishing.Wait()
	require.Greater(t, accepted.Load(), int64(publishers*each/4))
	var left int
	require.Eventually(t, func() bool {
		err := st.DB().GetContext(t.Context(), &left, `SELECT count(*) FROM reprise.handler_runs WHERE status <> 'SUCCESS'`)
		return err == nil && left == 0
	}, patience, 5*time.Millisecond, "runs are left")
	requireNothingHeldByNobody(t, st)
	published.Range(func(id, _ any) bool {
		_, ok := handled.Load(id)
		require.True(t, ok, "event %s was not handled", id)
		return true
	})
	require.NoError(t, ps.Close())
	working.Wait()
}

// The network fails while the server works on a statement, which is committed
// later without anybody being told; and database/sql runs it again.
func TestAStatementThatOutlivesItsConnectionLosesNoRun(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	direct := testkit.OpenStore(t, address)
	link := testdb.NewLink(t, address)
	st := testkit.OpenStore(t, link.URL)
	ps := configured(t, st, pubsub.Config{PollInterval: 20 * time.Millisecond, HeartbeatInterval: 100 * time.Millisecond})
	messages := subscribe(t, ps, "topic", "handler")
	for range 5 {
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("warm")))
		testkit.Receive(t, messages).Ack()
	}
	testkit.WaitForStatus(t, direct, "handler", store.Success, 5)

	sent, failed := newMessage("x"), make(chan error, 1)
	release := holdID(t, direct, sent.UUID)
	go func() { failed <- ps.Publisher().Publish("topic", sent) }()
	waitForTransactionLock(t, direct, 1)
	link.Cut()
	waitForTransactionLock(t, direct, 2) // database/sql tries again
	release()
	require.NoError(t, testkit.Receive(t, failed))
	msg := testkit.Receive(t, messages)
	require.Equal(t, sent.UUID, msg.UUID)
	msg.Ack()
	testkit.WaitForStatus(t, direct, "handler", store.Success, 6)
}

// ---

// configured is newPubSub with a configuration.
func configured(t *testing.T, st *store.Store, config pubsub.Config) *pubsub.PubSub {
	t.Helper()
	config.GracePeriod = 5 * time.Second
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	ps, err := pubsub.New(st, config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ps.Close()) })
	return ps
}

// requireNothingHeldByNobody looks for runs that no instance will ever end.
func requireNothingHeldByNobody(t *testing.T, st *store.Store) {
	t.Helper()
	var n int
	require.NoError(t, st.DB().GetContext(t.Context(), &n, `SELECT count(*) FROM `+testkit.Table(st, "handler_runs")+`
		WHERE status = 'PENDING' AND due_at IS NULL AND (instance IS NULL OR instance NOT IN (SELECT id FROM `+testkit.Table(st, "instances")+`))`))
	require.Zero(t, n, "runs are leased to nobody")
}

// holdID makes the insert of an event wait, once it is under way, until release.
func holdID(t *testing.T, st *store.Store, id string) (release func()) {
	t.Helper()
	tx, err := st.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	tx.MustExec(`INSERT INTO reprise.events (id, topic, payload) VALUES ($1, 'topic', '1')`, id)
	return func() { require.NoError(t, tx.Rollback()) }
}

func waitForTransactionLock(t *testing.T, st *store.Store, want int) {
	t.Helper()
	require.Eventually(t, func() bool {
		var n int
		err := st.DB().Get(&n, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'`)
		return err == nil && n == want
	}, patience, time.Millisecond)
}

// waitUntilNothingWaits returns when the next event will be handed over.
func waitUntilNothingWaits(t *testing.T, ps *pubsub.PubSub) {
	t.Helper()
	require.Eventually(t, ps.NothingWaits, patience, time.Millisecond)
}
