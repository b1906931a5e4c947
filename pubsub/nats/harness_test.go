package nats_test

import (
	"log/slog"
	"net"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/nats"
)

const patience = time.Minute

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
