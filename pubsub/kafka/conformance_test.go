package kafka_test

import (
	"os"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/internal/testtransport"
	"github.com/reprise-bus/reprise/pubsub/kafka"
)

// features is what can be claimed. Delivery is at least once: what was acked and
// not committed comes again. Order is not guaranteed, since many messages are
// under way at once, and the suite publishes without keys. New subscribers that
// receive old messages would be ones without a group, which a handler always is;
// that a new handler does is a test of our own. CONFORMANCE=full runs the long
// form.
func features() tests.Features {
	return tests.Features{
		ConsumerGroups:                   true,
		ExactlyOnceDelivery:              false,
		GuaranteedOrder:                  false,
		Persistent:                       true,
		NewSubscriberReceivesOldMessages: false,
		ForceShort:                       os.Getenv("CONFORMANCE") != "full",
	}
}

// unhurried has a publisher wait for a busy broker to make the suite's topics. By
// itself it gives up within seconds: an application has an outbox, and the suite has
// none.
func unhurried(c *sarama.Config) {
	c.Metadata.Retry.Max = int(patience / c.Metadata.Retry.Backoff)
	c.Metadata.Timeout = patience
	c.Net.ReadTimeout = patience
	c.Net.WriteTimeout = patience
	c.Producer.Timeout = patience / 2
	c.Producer.Retry.Max = 100
}

// Watermill's own suite for Pub/Subs. Its tests are one group each, as are those
// of an application.
func TestWatermillConformance(t *testing.T) {
	t.Parallel()
	group := func(t *testing.T, handler string) (message.Publisher, message.Subscriber) {
		transport := newTransport(t, kafka.Config{Sarama: unhurried})
		pub, err := transport.Publisher()
		require.NoError(t, err)
		sub, err := transport.Subscriber(handler)
		require.NoError(t, err)
		return pub, sub
	}
	one := func(t *testing.T) (message.Publisher, message.Subscriber) { return group(t, "handler-of-"+t.Name()) }
	tests.TestPubSub(t, features(), one, group)
}

func TestWatermillConformanceOfAnInbox(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		prefix := testbroker.Name("conformance")
		group := func(t *testing.T, handler string) (message.Publisher, message.Subscriber) {
			transport := newTransport(t, kafka.Config{GroupPrefix: prefix, Sarama: unhurried})
			pub, err := transport.Publisher()
			require.NoError(t, err)
			return pub, testtransport.Inbox(t, testtransport.PubSub(t, st), transport, handler, testtransport.Again(), false)
		}
		one := func(t *testing.T) (message.Publisher, message.Subscriber) { return group(t, t.Name()) }
		tests.TestPubSub(t, features(), one, group)
	})
}
