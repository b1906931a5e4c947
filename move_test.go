package reprise_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// The runbook of docs/transports.md under load: three processes are deployed
// one after the other, from the database to Kafka and back, while four callers
// publish. Every event is handled once by each handler, and what goes over Kafka
// is recorded in the order of its key.
func TestTheMove(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		m := &move{t: t, url: url, handled: map[string]int{}}
		connection := kafkaVia(t)
		receiving := func() *pubsub.Transport {
			carrier := connection(t)
			carrier.Mode = pubsub.ViaDatabase
			return carrier
		}
		m.names = marshaler(t)

		m.deploy(func() *pubsub.Transport { return nil })
		callers, stop := m.load()
		m.deploy(receiving)
		m.deploy(func() *pubsub.Transport { return connection(t) })
		moved := m.mark()
		m.publishMore(200)
		back := m.mark()
		m.deploy(receiving)
		m.waitUntilReceived()
		m.deploy(func() *pubsub.Transport { return nil })
		m.publishMore(50)
		stop()
		callers.Wait()
		m.waitUntilReceived()
		m.requireEachHandledOnce()
		m.requireOrder(moved, back)
	})
}

type moved struct {
	Key string `json:"key"`
	N   int    `json:"n"`
}

func (moved) EventName() string  { return "moved" }
func (e moved) EventKey() string { return e.Key }
func (e moved) EventID() string  { return fmt.Sprintf("%s-%d", e.Key, e.N) }

// move is three processes, those who publish by them, and what became of it.
type move struct {
	t         *testing.T
	url       string
	names     cqrs.CommandEventMarshaler
	processes [3]process

	mu        sync.Mutex
	published int
	last      [4]int         // number published, of each caller's key
	handled   map[string]int // by handler and event
}

type process struct {
	mu   sync.RWMutex // held for reading while something is published by it
	bus  *bus.Bus
	stop func()
}

// deploy replaces one process after the other.
func (m *move) deploy(carrier func() *pubsub.Transport) {
	m.t.Helper()
	for i := range m.processes {
		p := &m.processes[i]
		p.mu.Lock()
		if p.stop != nil {
			p.stop()
		}
		p.bus, p.stop = m.start(carrier())
		p.mu.Unlock()
		m.publishMore(10)
	}
}

func (m *move) start(carrier *pubsub.Transport) (*bus.Bus, func()) {
	b, err := bus.Open(m.t.Context(), m.url, bus.Config{Transport: carrier, Marshaler: m.names, Logger: logger(m.t)})
	require.NoError(m.t, err)
	for _, name := range []string{"send-welcome-email", "grant-trial"} {
		require.NoError(m.t, b.Handle(handlers.New(name, func(_ context.Context, e moved) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.handled[name+" of "+e.EventID()]++
			return nil
		})))
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		require.NoError(m.t, <-ended)
		require.NoError(m.t, b.Close())
	})
	m.t.Cleanup(stop)
	return b, stop
}

// load publishes from four callers, each on a key of its own, by a process of its
// own, and one event after the other.
func (m *move) load() (callers *sync.WaitGroup, stop func()) {
	ctx, cancel := context.WithCancel(m.t.Context())
	m.t.Cleanup(cancel)
	callers = &sync.WaitGroup{}
	for caller := range m.last {
		callers.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				p := &m.processes[caller%len(m.processes)]
				p.mu.RLock()
				err := m.publish(p.bus, moved{Key: fmt.Sprint("key", caller), N: n})
				p.mu.RUnlock()
				if err != nil {
					m.t.Error(err)
					return
				}
				m.mu.Lock()
				m.last[caller] = n
				m.published++
				m.mu.Unlock()
			}
		})
	}
	return callers, cancel
}

// publish publishes every tenth event in a transaction.
func (m *move) publish(b *bus.Bus, e moved) error {
	ctx := context.Background()
	if e.N%10 != 0 {
		return b.Publish(ctx, e)
	}
	return store.Again(ctx, func() error {
		return b.InTx(ctx, func(tx *bus.Tx) error { return b.PublishTx(ctx, tx, e) })
	})
}

// mark is how far each caller is.
func (m *move) mark() [4]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

func (m *move) publishMore(n int) {
	m.t.Helper()
	m.mu.Lock()
	from := m.published
	m.mu.Unlock()
	if from == 0 {
		return // nobody publishes yet
	}
	require.Eventually(m.t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.published >= from+n
	}, time.Minute, 5*time.Millisecond)
}

// waitUntilReceived waits until all that has been published is handled: then
// nothing is left of it in the outbox or with the broker.
func (m *move) waitUntilReceived() {
	m.t.Helper()
	until := m.mark()
	require.Eventually(m.t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for caller, last := range until {
			for n := 1; n <= last; n++ {
				e := moved{Key: fmt.Sprint("key", caller), N: n}
				if m.handled["send-welcome-email of "+e.EventID()] == 0 || m.handled["grant-trial of "+e.EventID()] == 0 {
					return false
				}
			}
		}
		return true
	}, 2*time.Minute, 50*time.Millisecond)
}

func (m *move) requireEachHandledOnce() {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	require.Len(m.t, m.handled, 2*m.published)
	for what, times := range m.handled {
		require.Equal(m.t, 1, times, what)
	}
	m.t.Logf("%d events, each handled once by two handlers", m.published)
}

// requireOrder requires that the events which each caller published after one
// mark and up to another are recorded in their order.
func (m *move) requireOrder(after, upTo [4]int) {
	m.t.Helper()
	st := m.processes[0].bus.Store()
	for caller := range after {
		var runs []store.Run
		for before := int64(0); ; {
			page, err := st.Page(m.t.Context(), store.Filter{Key: fmt.Sprint("key", caller), Handler: "grant-trial", Before: before, Limit: store.MaxLimit})
			require.NoError(m.t, err)
			runs = append(runs, page.Runs...)
			if before = page.Next; before == 0 {
				break
			}
		}
		slices.Reverse(runs) // oldest first
		last := 0
		for _, r := range runs {
			var n int
			_, err := fmt.Sscanf(r.EventID, fmt.Sprintf("key%d-%%d", caller), &n)
			require.NoError(m.t, err)
			if n > after[caller] && n <= upTo[caller] {
				require.Equal(m.t, max(last, after[caller])+1, n, "of key%d", caller)
				last = n
			}
		}
		require.Equal(m.t, upTo[caller], max(last, after[caller]))
	}
}
