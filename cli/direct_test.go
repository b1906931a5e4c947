package cli

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/pubsub/transport"
	"github.com/reprise-bus/reprise/store"
)

// With the transport given, a single event goes to the broker; without a broker
// that answers, it goes by the outbox all the same.
func TestPublishDirectly(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		addr := strings.Join(testbroker.Kafka(t), ",")
		orders := testbroker.Topic(t, 1)
		require.NoError(t, db.DeclareTopics(t.Context(), []store.Topic{{Topic: orders, Transport: "kafka", Mode: "direct", Manual: true}}))

		var published wire.Published
		db.reprise("publish", orders, `{"id":"1"}`, "--key", "1", "--transport", "kafka://"+addr, "-o", "json").ok().json(&published)
		require.Equal(t, store.OutgoingSent, published.Outbox)
		carrier, err := transport.Open("kafka://"+addr, nil)
		require.NoError(t, err)
		subscriber, err := carrier.Subscriber(testbroker.Name("group"))
		require.NoError(t, err)
		defer subscriber.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		messages, err := subscriber.Subscribe(ctx, orders)
		require.NoError(t, err)
		msg := <-messages
		require.NotNil(t, msg, "within a minute")
		require.Equal(t, published.IDs, []string{msg.UUID})
		require.Equal(t, `{"id":"1"}`, string(msg.Payload))
		msg.Ack()

		db.reprise("publish", orders, "{}", "--transport", "kafka://127.0.0.1:1", "-o", "json").ok().json(&published)
		require.Equal(t, store.OutgoingPending, published.Outbox)
		db.reprise("publish", orders, "{}", "--transport", "nats://127.0.0.1:1").fails(exitUsage, "goes over kafka, and the transport that is given is nats")
		db.reprise("publish", orders, "{}", "--transport", "fax://1").fails(exitUsage, "kafka://host:9092")
	})
}
