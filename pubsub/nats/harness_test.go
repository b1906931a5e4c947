package nats_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	natsserver "github.com/nats-io/nats-server/v2/server"
	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/nats"
	"github.com/reprise-bus/reprise/store"
)

const patience = 20 * time.Second

// again tries again for ever, and soon.
var again = handlers.Policy{Attempts: 1_000_000, Backoff: handlers.Backoff{Initial: 10 * time.Millisecond, Factor: 1, Jitter: -1}}

// server is a NATS server with JetStream, in this process, that a test may stop
// and start again at the same address and with the same files.
type server struct {
	URL string

	t       testing.TB
	options *natsserver.Options
	running *natsserver.Server
}

func newServer(t testing.TB, set ...func(*natsserver.Options)) *server {
	t.Helper()
	s := &server{t: t, options: &natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(),
	}}
	for _, f := range set {
		f(s.options)
	}
	s.Start()
	s.URL = s.running.ClientURL()
	t.Cleanup(s.Stop)
	return s
}

func (s *server) Start() {
	s.t.Helper()
	options := *s.options
	running, err := natsserver.NewServer(&options)
	require.NoError(s.t, err)
	running.Start()
	require.True(s.t, running.ReadyForConnections(patience))
	s.running = running
	s.options.Port = running.Addr().(*net.TCPAddr).Port
}

func (s *server) Stop() {
	s.running.Shutdown()
	s.running.WaitForShutdown()
}

// Client is a program that knows nothing of Reprise.
func (s *server) Client() (*natsio.Conn, jetstream.JetStream) {
	s.t.Helper()
	conn, err := natsio.Connect(s.URL, natsio.MaxReconnects(-1), natsio.ReconnectWait(50*time.Millisecond))
	require.NoError(s.t, err)
	s.t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	require.NoError(s.t, err)
	return conn, js
}

func newTransport(t testing.TB, config nats.Config) *pubsub.Transport {
	t.Helper()
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	transport, err := nats.New(config)
	require.NoError(t, err)
	require.NoError(t, transport.Validate())
	return transport
}

func newPublisher(t testing.TB, transport *pubsub.Transport) message.Publisher {
	t.Helper()
	pub, err := transport.Publisher()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func newSubscriber(t testing.TB, transport *pubsub.Transport, handler string) message.Subscriber {
	t.Helper()
	sub, err := transport.Subscriber(handler)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

func subscribe(t testing.TB, sub message.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	return messages
}

func openStore(t testing.TB, url string) *store.Store {
	t.Helper()
	db := testdb.Open(t, url)
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	st, err := store.New(t.Context(), db, "")
	require.NoError(t, err)
	return st
}

func newPubSub(t testing.TB, st *store.Store) *pubsub.PubSub {
	t.Helper()
	ps, err := pubsub.New(st, pubsub.Config{
		GracePeriod:  time.Second,
		PollInterval: 100 * time.Millisecond,
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ps.Close()) })
	return ps
}

func newInbox(t testing.TB, ps *pubsub.PubSub, transport *pubsub.Transport, handler string, policy handlers.Policy, recorded bool) *pubsub.Inbox {
	t.Helper()
	sub, err := transport.Subscriber(handler)
	require.NoError(t, err)
	in, err := ps.Inbox(sub, handler, policy, pubsub.InboxConfig{Source: transport.Name, Identify: transport.Identify, Recorded: recorded})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, in.Close()) })
	return in
}

func newMessage(payload string) *message.Message {
	return message.NewMessage(watermill.NewUUID(), []byte(payload))
}

func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v, open := <-from:
		require.True(t, open, "the channel is closed")
		return v
	case <-time.After(patience):
		t.Fatalf("nothing came within %v", patience)
		panic("unreachable")
	}
}

func waitForStatus(t testing.TB, st *store.Store, handler string, status store.Status, n int) {
	t.Helper()
	count := 0
	require.Eventually(t, func() bool {
		err := st.DB().GetContext(t.Context(), &count, `SELECT count(*) FROM `+table(st, "handler_runs")+` WHERE handler = $1 AND status = $2`, handler, string(status))
		return err == nil && count == n
	}, patience, 5*time.Millisecond, "%s runs are %s, want %d", handler, status, n)
}

func requireCount(t testing.TB, st *store.Store, name string, want int) {
	t.Helper()
	var got int
	require.NoError(t, st.DB().GetContext(t.Context(), &got, `SELECT count(*) FROM `+table(st, name)))
	require.Equal(t, want, got, name)
}

func table(st *store.Store, name string) string {
	if st.DB().DriverName() == "postgres" {
		return "reprise." + name
	}
	return "reprise_" + name
}

// logged keeps what is logged, and passes it on.
type logged struct {
	slog.Handler

	mu       sync.Mutex
	messages []string
}

func newLogged(t testing.TB) (*logged, *slog.Logger) {
	l := &logged{Handler: slog.NewTextHandler(t.Output(), nil)}
	return l, slog.New(l)
}

func (l *logged) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, r.Message)
	return l.Handler.Handle(ctx, r)
}

// count is how many lines begin so.
func (l *logged) count(begin string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.messages {
		if strings.HasPrefix(m, begin) {
			n++
		}
	}
	return n
}
