package nats

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// connect returns a connection that reconnects without limit, and that buffers no
// messages while it is lost.
func connect(c Config) (*nats.Conn, jetstream.JetStream, error) {
	options := []nats.Option{
		nats.Name(cmp.Or(c.Name, "reprise")),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.IgnoreAuthErrorAbort(), // a server that comes back may accept us again
		nats.PingInterval(10 * time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if !errors.Is(err, nats.ErrBadHeaderMsg) { // the message is delivered all the same
				c.Logger.Warn("NATS reports an error", "error", err)
			}
		}),
	}
	if c.CredentialsFile != "" {
		options = append(options, nats.UserCredentials(c.CredentialsFile))
	}
	if c.Token != "" {
		options = append(options, nats.Token(c.Token))
	}
	if c.TLS != nil {
		options = append(options, nats.Secure(c.TLS))
	}
	conn, err := nats.Connect(c.URL, slices.Concat(options, c.Options)...)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, js, nil
}

// connected returns an error while the connection is lost.
func connected(conn *nats.Conn) error {
	if conn.IsConnected() {
		return nil
	}
	if err := conn.LastError(); err != nil {
		return fmt.Errorf("the connection is lost: %w", err)
	}
	return errors.New("the connection is lost")
}
