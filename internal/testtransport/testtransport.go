// Package testtransport is what the tests of every broker's package do alike.
package testtransport

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// Again is the policy of a handler that tries again for ever, and soon.
func Again() handlers.Policy {
	return handlers.Policy{Attempts: 1_000_000, Backoff: handlers.Backoff{Initial: 10 * time.Millisecond, Factor: 1, Jitter: -1}}
}

// Publisher returns the transport's, which is closed when the test ends.
func Publisher(t testing.TB, transport *pubsub.Transport) message.Publisher {
	t.Helper()
	pub, err := transport.Publisher()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

// Subscriber returns the one of a handler, which is closed when the test ends.
func Subscriber(t testing.TB, transport *pubsub.Transport, handler string) message.Subscriber {
	t.Helper()
	sub, err := transport.Subscriber(handler)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

// Subscribe returns what a subscriber delivers until the test ends.
func Subscribe(t testing.TB, sub message.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	return messages
}

// PubSub returns one over the store, which is closed when the test ends.
func PubSub(t testing.TB, st *store.Store) *pubsub.PubSub {
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

// Inbox returns one around the transport's subscriber of the handler, which is
// closed when the test ends.
func Inbox(t testing.TB, ps *pubsub.PubSub, transport *pubsub.Transport, handler string, policy handlers.Policy, recorded bool) *pubsub.Inbox {
	t.Helper()
	sub, err := transport.Subscriber(handler)
	require.NoError(t, err)
	in, err := ps.Inbox(sub, handler, policy, pubsub.InboxConfig{Source: transport.Name, Identify: transport.Identify, Recorded: recorded})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, in.Close()) })
	return in
}

// Message returns one with a UUID. A publisher that minds its context has
// testkit.Patience to send it: longer than it gives itself, since a busy machine may be
// slow to answer.
func Message(t testing.TB, payload string) *message.Message {
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	t.Cleanup(cancel)
	msg := message.NewMessage(watermill.NewUUID(), []byte(payload))
	msg.SetContext(ctx)
	return msg
}

// Logged keeps what is logged, and passes it on.
type Logged struct {
	slog.Handler

	mu       sync.Mutex
	messages []string
}

// NewLogged returns one, and the logger that it listens to.
func NewLogged(t testing.TB) (*Logged, *slog.Logger) {
	l := &Logged{Handler: slog.NewTextHandler(t.Output(), nil)}
	return l, slog.New(l)
}

// Handle implements slog.Handler.
func (l *Logged) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, r.Message)
	return l.Handler.Handle(ctx, r)
}

// Count is how many lines begin so.
func (l *Logged) Count(begin string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.messages {
		if strings.HasPrefix(m, begin) {
			n++
		}
	}
	return n
}
