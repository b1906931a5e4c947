package pubsub_test

import (
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
)

// What is published on a topic that nobody is subscribed to is said once, whichever
// way it is published.
func TestAPublishThatNobodyIsSubscribedToIsSaidOnce(t *testing.T) {
	batch := func(n int) (messages []*message.Message) {
		for range n {
			messages = append(messages, newMessage("x"))
		}
		return messages
	}
	for name, publish := range map[string]func(t *testing.T, ps *pubsub.PubSub, topic string) error{
		"one": func(_ *testing.T, ps *pubsub.PubSub, topic string) error {
			return ps.Publisher().Publish(topic, batch(1)...)
		},
		"several": func(_ *testing.T, ps *pubsub.PubSub, topic string) error {
			return ps.Publisher().Publish(topic, batch(3)...)
		},
		"many": func(_ *testing.T, ps *pubsub.PubSub, topic string) error {
			return ps.Publisher().Publish(topic, batch(2500)...)
		},
		"in InTx": func(t *testing.T, ps *pubsub.PubSub, topic string) error {
			return ps.InTx(t.Context(), func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish(topic, batch(1)...) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				var log lines
				ps := configured(t, st, pubsub.Config{Logger: log.logger()})
				require.NoError(t, ps.Register("heard", "handler", again))
				for range 2 {
					require.NoError(t, publish(t, ps, "heard"))
					require.NoError(t, publish(t, ps, "unheard"))
				}
				found := log.of(t, "topic")
				require.Len(t, found, 1)
				require.Equal(t, "unheard", found[0]["topic"])
				require.Equal(t, "WARN", found[0]["level"])
				require.Contains(t, found[0]["msg"], "nobody is subscribed")
				unheard, err := st.Unheard(t.Context())
				require.NoError(t, err)
				require.Len(t, unheard, 1)
				require.Equal(t, "unheard", unheard[0].Topic)
			})
		})
	}
}

// Concurrent publishes share statements, of which some events have handlers.
func TestAPublishForNobodyIsSaidThoughItSharesItsStatement(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		var log lines
		ps := configured(t, st, pubsub.Config{Logger: log.logger()})
		require.NoError(t, ps.Register("heard", "handler", again))
		require.NoError(t, ps.Publisher().Publish("another.topic", newMessage("x")))
		release := func() {}
		if queue.Of(st).LeasesOnInsert() {
			release = holdEvents(t, st)
			busy(t, st, ps)
		}
		const n = 6
		ended := make(chan error, 2*n)
		for i := range n {
			go func() { ended <- ps.Publisher().Publish("heard", newMessage(fmt.Sprint(i))) }()
			go func() { ended <- ps.Publisher().Publish("unheard", newMessage(fmt.Sprint(i))) }()
		}
		if queue.Of(st).LeasesOnInsert() {
			waitForGathered(t, ps, 2*n)
			release()
		}
		for range 2 * n {
			require.NoError(t, testkit.Receive(t, ended))
		}
		found := log.of(t, "topic")
		require.Len(t, found, 2)
		require.Equal(t, "another.topic", found[0]["topic"])
		require.Equal(t, "unheard", found[1]["topic"])
	})
}
