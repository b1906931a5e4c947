package replay_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func TestEventsPublishedByHandAreAnOperation(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		p, err := replay.NewPublisher(t.Context(), st, "topic", replay.PublisherConfig{}, replay.Request{By: "maria", Reason: "the form lost them"})
		require.NoError(t, err)
		defer func() { require.NoError(t, p.Close()) }()
		operations, err := st.Operations(t.Context(), 0, 0)
		require.NoError(t, err)
		require.Empty(t, operations, "nothing is published yet")

		require.NoError(t, p.Publish(t.Context(), message.NewMessage("1", []byte("{}")), message.NewMessage("2", []byte("{}"))))
		require.NoError(t, p.Publish(t.Context(), message.NewMessage("3", []byte("{}"))))
		o, err := st.Operation(t.Context(), p.Operation())
		require.NoError(t, err)
		require.Equal(t, []any{store.Publishing, "maria", "the form lost them", int64(3), false}, []any{o.Kind, o.RequestedBy, o.Reason, o.Taken, o.Complete})
		require.NoError(t, p.Complete(t.Context()))
		o, err = st.Operation(t.Context(), p.Operation())
		require.NoError(t, err)
		require.True(t, o.Complete)
		require.EqualValues(t, 3, p.Published())
		require.Empty(t, p.Outbox(), "the handler has runs")
		n, err := st.Count(t.Context(), store.Filter{Handler: "handler", Status: store.Pending})
		require.NoError(t, err)
		require.EqualValues(t, 3, n.N)
		e, err := st.Event(t.Context(), "topic", "3")
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(p.Operation()), e.Metadata[store.OperationMetadata])
	})
}

// Events go where the application's declaration of the topic says, without a connection
// to the broker.
func TestEventsPublishedByHandGoWhereTheirTopicSays(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		require.NoError(t, st.DeclareTopics(t.Context(), []store.Topic{
			{Topic: "direct", Transport: "kafka", Mode: "direct", Manual: true},
			{Topic: "held", Transport: "kafka", Mode: "hold", Manual: true},
			{Topic: "local", Transport: "kafka", Mode: "database", Manual: true},
			{Topic: "forbidden", Transport: "kafka"},
			{Topic: store.AllTopics, Transport: "kafka"},
		}))
		for topic, want := range map[string]store.OutgoingState{"direct": store.OutgoingPending, "held": store.OutgoingHeld, "local": ""} {
			p, err := replay.NewPublisher(t.Context(), st, topic, replay.PublisherConfig{}, replay.Request{})
			require.NoError(t, err)
			require.NoError(t, p.Publish(t.Context(), message.NewMessage(topic, []byte("{}"))))
			require.Equal(t, want, p.Outbox(), topic)
			waits, err := st.Outbox(t.Context(), store.OutboxFilter{Topic: topic})
			require.NoError(t, err)
			if want == "" {
				require.Empty(t, waits)
			} else {
				require.Len(t, waits, 1)
				require.Equal(t, want, waits[0].State)
			}
			require.NoError(t, p.Close())
		}
		for _, topic := range []string{"forbidden", "unknown"} {
			_, err := replay.NewPublisher(t.Context(), st, topic, replay.PublisherConfig{}, replay.Request{})
			require.ErrorIs(t, err, replay.ErrNotManual)
			require.ErrorContains(t, err, fmt.Sprintf("topic %q is not for publishing by hand; the application allows: direct, held, local.", topic))
		}
		other := &pubsub.Transport{
			Name:       "nats",
			Publisher:  func() (message.Publisher, error) { return nil, errors.New("not called") },
			Subscriber: func(string) (message.Subscriber, error) { return nil, errors.New("not called") },
		}
		_, err := replay.NewPublisher(t.Context(), st, "direct", replay.PublisherConfig{Transport: other}, replay.Request{})
		require.ErrorIs(t, err, replay.ErrWrongTransport)
		require.Empty(t, other.Mode, "it is the caller's")
	})
}
