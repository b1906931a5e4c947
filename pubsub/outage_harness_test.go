package pubsub_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// outageTest is a PubSub on a server of its own that fails on request, and what
// is known of each message by then.
type outageTest struct {
	serverOutage
	t        *testing.T
	server   *testdb.Server
	st       *store.Store
	ps       *pubsub.PubSub
	messages <-chan *message.Message
	log      *logged
	dials    atomic.Int64
	unlock   func() error
	toast    string // the file of large payloads

	mu       sync.Mutex
	verdicts map[string]verdict // by event
	handled  map[string]bool
	silent   sync.Once // an error says nothing
}

func newOutageTest(t *testing.T, what serverOutage) *outageTest {
	t.Helper()
	o := &outageTest{
		serverOutage: what, t: t, server: testdb.NewServer(t),
		log:      &logged{to: slog.NewTextHandler(t.Output(), nil)},
		verdicts: map[string]verdict{}, handled: map[string]bool{},
	}
	if o.payload == nil {
		o.payload = func() []byte { return []byte("x") }
	}
	connector, err := pq.NewConnector(o.server.URL + what.parameters)
	require.NoError(t, err)
	connector.Dialer(countingDialer{&o.dials})
	db := sql.OpenDB(connector)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	o.st, err = store.New(t.Context(), db, "")
	require.NoError(t, err)
	o.ps, err = pubsub.New(o.st, pubsub.Config{
		PollInterval: 20 * time.Millisecond, HeartbeatInterval: 50 * time.Millisecond, ListenURL: o.server.URL, Logger: slog.New(o.log),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, o.ps.Close()) })
	o.messages = subscribe(t, o.ps, "topic", "handler")
	return o
}

func (o *outageTest) run() {
	require.Equal(o.t, written, o.publishOne(newMessage("before")))
	before := testkit.Receive(o.t, o.messages)
	o.begin(o)
	require.Eventually(o.t, func() bool { return o.publish() == unwritten }, patience, time.Millisecond, "publishing never says that nothing was written")
	before.Ack()
	o.handled[before.UUID] = true
	for _, part := range o.fails {
		o.log.requireOnce(o.t, part, "fails")
	}
	tried := o.tries(o)
	require.Eventually(o.t, func() bool {
		if len(o.fails) == 0 { // nobody else tries
			o.publish()
		}
		return o.tries(o) >= tried+10
	}, patience, 5*time.Millisecond)
	require.Equal(o.t, unwritten, o.publish(), "as long as it lasts")
	require.Equal(o.t, len(o.fails), o.log.lines(), "one line a part, whatever is tried again")

	o.end(o)
	var working sync.WaitGroup
	working.Go(o.handleAll)
	require.Eventually(o.t, func() bool { return o.publish() == written }, patience, time.Millisecond, "publishing does not resume")
	for _, part := range o.fails {
		o.log.requireOnce(o.t, part, "works again")
	}
	o.requireAllEnded()
	o.requireTruth()
	require.Equal(o.t, 2*len(o.fails), o.log.lines(), "one line a part and change")
	require.NoError(o.t, o.ps.Close())
	working.Wait()
}

// fillDisk lets large payloads be written to a device that is full. Nothing
// that runs without privileges makes a disk small; this error is the kernel's
// and the server's own.
func (o *outageTest) fillDisk() {
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		o.t.Skipf("a full disk needs %s, which Linux has: %v", full, err)
	}
	var path string
	require.NoError(o.t, o.server.Admin.QueryRow(`SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'reprise.events'::regclass`).Scan(&path))
	o.toast = filepath.Join(o.server.Data(), filepath.FromSlash(path))
	require.NoError(o.t, os.Rename(o.toast, o.toast+".aside"))
	require.NoError(o.t, os.Symlink(full, o.toast))
}

func (o *outageTest) freeDisk() {
	require.NoError(o.t, os.Rename(o.toast+".aside", o.toast))
	o.server.Exec(`ALTER TABLE reprise.events SET (toast.autovacuum_enabled = off)`) // whoever has the file open opens it anew
}

// incompressible is a payload that no page has room for.
func incompressible() []byte {
	payload := make([]byte, 50_000)
	for i := range payload {
		payload[i] = byte(rand.UintN(256))
	}
	return payload
}

// verdict is what an error, or none, says of an event.
type verdict int

const (
	written verdict = iota
	unwritten
	unknown
)

func (o *outageTest) publish() verdict {
	return o.publishOne(message.NewMessage(newMessage("").UUID, o.payload()))
}

func (o *outageTest) publishOne(msg *message.Message) verdict {
	err := o.ps.Publisher().Publish("topic", msg)
	switch {
	case err == nil:
		return o.note(msg, written)
	case strings.Contains(err.Error(), "nothing was written"):
		return o.note(msg, unwritten)
	case strings.Contains(err.Error(), "may have been written"):
		return o.note(msg, unknown)
	default:
		o.silent.Do(func() { o.t.Errorf("the error does not say whether anything was written: %v", err) })
		return o.note(msg, unknown)
	}
}

// publishInTx knows from InTx only that a commit may have succeeded.
func (o *outageTest) publishInTx() verdict {
	msg := newMessage("x")
	err := o.ps.InTx(o.t.Context(), func(tx *pubsub.Transaction) error { return o.ps.PublisherTx(tx).Publish("topic", msg) })
	switch {
	case err == nil:
		return o.note(msg, written)
	case strings.HasPrefix(err.Error(), "commit"):
		return o.note(msg, unknown)
	default:
		return o.note(msg, unwritten)
	}
}

func (o *outageTest) note(msg *message.Message, v verdict) verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.verdicts[msg.UUID] = v
	return v
}

func (o *outageTest) count(v verdict) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, other := range o.verdicts {
		if other == v {
			n++
		}
	}
	return n
}

func (o *outageTest) handleAll() {
	for msg := range o.messages {
		o.mu.Lock()
		o.handled[msg.UUID] = true
		o.mu.Unlock()
		msg.Ack()
	}
}

func (o *outageTest) requireAllEnded() {
	o.t.Helper()
	left := -1
	require.Eventually(o.t, func() bool {
		err := o.server.Admin.QueryRow(`SELECT count(*) FROM reprise.handler_runs WHERE status <> 'SUCCESS'`).Scan(&left)
		return err == nil && left == 0
	}, patience, 5*time.Millisecond, "runs are left")
	requireNothingHeldByNobody(o.t, o.st)
}

// requireTruth compares what publishing said with what is in the database.
func (o *outageTest) requireTruth() {
	o.t.Helper()
	var ids []string
	require.NoError(o.t, o.st.DB().Select(&ids, `SELECT e.id FROM reprise.events e JOIN reprise.handler_runs r ON r.event_id = e.id`))
	times := map[string]int{}
	for _, id := range ids {
		times[id]++
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, v := range o.verdicts {
		n := times[id]
		switch v {
		case written:
			require.Equal(o.t, 1, n, "event %s was written", id)
		case unwritten:
			require.Zero(o.t, n, "event %s was not written", id)
		case unknown:
			require.LessOrEqual(o.t, n, 1, "event %s may have been written", id)
		}
		if n > 0 {
			require.True(o.t, o.handled[id], "event %s was not handled", id)
		}
	}
}

type countingDialer struct{ dials *atomic.Int64 }

func (d countingDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d countingDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	d.dials.Add(1)
	return net.DialTimeout(network, address, timeout)
}

func (d countingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.dials.Add(1)
	return new(net.Dialer).DialContext(ctx, network, address)
}

// logged counts what is logged, and passes it on.
type logged struct {
	to slog.Handler

	mu       sync.Mutex
	messages []string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }

func (l *logged) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, r.Message)
	return l.to.Handle(ctx, r)
}

func (l *logged) lines() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.messages)
}

// requireOnce waits until a part has logged that it fails, or works again, and
// wants that to be the only time.
func (l *logged) requireOnce(t *testing.T, part, what string) {
	t.Helper()
	n := 0
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		n = 0
		for _, m := range l.messages {
			if strings.HasPrefix(m, part+" "+what) {
				n++
			}
		}
		return n > 0
	}, patience, time.Millisecond, "%s %s: not logged", part, what)
	require.Equal(t, 1, n, "%s %s", part, what)
}

// refuseConnections lets the server refuse new connections to a test's
// database, until admit.
func refuseConnections(t *testing.T, address string) (admit func()) {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	server := testdb.Open(t, os.Getenv("TEST_DATABASE_URL"))
	allow := func(yes bool) {
		_, err := server.Exec(fmt.Sprintf(`ALTER DATABASE %s ALLOW_CONNECTIONS %v`, strings.TrimPrefix(u.Path, "/"), yes))
		require.NoError(t, err)
	}
	allow(false)
	return func() { allow(true) }
}

// claimsUnderWay is how many sessions wait for an instance's row.
func claimsUnderWay(st *store.Store) (n int) {
	_ = st.DB().Get(&n, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'
		AND query LIKE '%SKIP LOCKED%'`)
	return n
}

// swamp is a connection to the database that swallows what is sent, both ways,
// from fill to drain.
type swamp struct {
	gate  sync.RWMutex
	stuck atomic.Int64 // what has been sent and waits for drain
}

func (s *swamp) fill()  { s.gate.Lock() }
func (s *swamp) drain() { s.gate.Unlock() }

func newSwamp(t *testing.T, address string) (*swamp, string) {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	server := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	s := &swamp{}
	pass := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 1<<16)
		for {
			n, err := from.Read(buf)
			s.stuck.Add(1)
			s.gate.RLock()
			s.stuck.Add(-1)
			_, failed := to.Write(buf[:n])
			s.gate.RUnlock()
			if err != nil || failed != nil {
				return
			}
		}
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			go pass(upstream, client)
			go pass(client, upstream)
		}
	}()
	u.Host = listener.Addr().String()
	return s, u.String()
}
