package pubsub_test

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// Watermill's own suite for Pub/Subs. Delivery is at least once; order is not
// promised; a subscription gets what is published after it was made, so a new
// group does not see what came before. CONFORMANCE=full runs the long form.
func TestWatermillConformance(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		features, one, group := conformance(testkit.OpenStore(t, url))
		features.ForceShort = os.Getenv("CONFORMANCE") != "full"
		tests.TestPubSub(t, features, one, group)
	})
}

func conformance(st *store.Store) (tests.Features, tests.PubSubConstructor, tests.ConsumerGroupPubSubConstructor) {
	group := func(t *testing.T, handler string) (message.Publisher, message.Subscriber) {
		ps := newPubSub(t, st)
		return ps.Publisher(), ps.Subscriber(handler, again)
	}
	one := func(t *testing.T) (message.Publisher, message.Subscriber) { return group(t, "handler") }
	return tests.Features{
		ConsumerGroups:      true,
		ExactlyOnceDelivery: false,
		GuaranteedOrder:     false,
		Persistent:          true,
	}, one, group
}

// again tries again for ever, and soon.
var again = handlers.Policy{Attempts: 1_000_000, Backoff: handlers.Backoff{Initial: 10 * time.Millisecond, Factor: 1, Jitter: -1}}

// openGatedStore is openStore behind a gate.
func openGatedStore(t *testing.T, url string) (*store.Store, *testdb.Gate) {
	t.Helper()
	testkit.OpenStore(t, url) // makes the tables
	db, gate := testdb.OpenGate(t, url)
	st, err := store.New(t.Context(), db, "")
	require.NoError(t, err)
	return st, gate
}

func newPubSub(t *testing.T, st *store.Store) *pubsub.PubSub {
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
