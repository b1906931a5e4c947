package pubsub_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// siblings are messages under one id that differ in their metadata.
func siblings(id string, about ...string) (messages []*message.Message) {
	for _, text := range about {
		msg := message.NewMessage(id, []byte("x"))
		if text != "" {
			msg.Metadata.Set("about", text)
		}
		messages = append(messages, msg)
	}
	return messages
}

// Of several messages under one id that come at once, what the database has under
// it decides which are others: the one that was handled is not handled again,
// wherever it stands among them.
func TestASiblingMakesNoOtherEventOfWhatIsKnown(t *testing.T) {
	ways := map[string]func(t *testing.T, ps *pubsub.PubSub, messages []*message.Message){
		"published": func(t *testing.T, ps *pubsub.PubSub, messages []*message.Message) {
			require.NoError(t, ps.Publisher().Publish("topic", messages...))
		},
		"in InTx": func(t *testing.T, ps *pubsub.PubSub, messages []*message.Message) {
			require.NoError(t, ps.InTx(t.Context(), func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish("topic", messages...) }))
		},
	}
	for name, publish := range ways {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				ps := newPubSub(t, st)
				require.NoError(t, ps.Register("topic", "handler", again))
				publish(t, ps, siblings("1", ""))
				publish(t, ps, siblings("1", "a", "", "b", "a"))
				publish(t, ps, siblings("1", "b", "", "a"))
				publish(t, ps, siblings("2", "a"))
				publish(t, ps, siblings("2", "", "a", "b"))
				testkit.RequireCount(t, st, "events", 6)
				testkit.RequireCount(t, st, "handler_runs", 6)
				e, err := st.Event(t.Context(), "topic", "2")
				require.NoError(t, err)
				require.Equal(t, "a", e.Metadata["about"])
			})
		})
	}
}

// An Inbox decides so, too, of those that it receives together; also where their
// payloads differ.
func TestASiblingInAnInboxMakesNoOtherEventOfWhatIsKnown(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		payload := func(text string) *message.Message { return message.NewMessage("payload", []byte(text)) }
		for _, batch := range [][]*message.Message{
			append(siblings("1", ""), payload("first")),
			append(siblings("1", "a", "", "b", ""), payload("other"), payload("first"), payload("other")),
			append(siblings("1", "b", "", "a"), payload("first"), payload("other")),
		} {
			from := make(fed, len(batch))
			for _, msg := range batch {
				from <- msg
			}
			in, err := ps.Inbox(from, "handler", again, pubsub.InboxConfig{})
			require.NoError(t, err)
			_, err = in.Subscribe(t.Context(), "topic")
			require.NoError(t, err)
			for _, msg := range batch {
				select {
				case <-msg.Acked():
				case <-time.After(patience):
					t.Fatal("a message is not acknowledged")
				}
			}
			require.NoError(t, in.Close())
		}
		testkit.RequireCount(t, st, "events", 5) // three of id 1, two of the payloads
		testkit.RequireCount(t, st, "handler_runs", 5)
		e, err := st.Event(t.Context(), "topic", "payload")
		require.NoError(t, err)
		require.Equal(t, "first", string(e.Payload))
		_, err = st.Event(t.Context(), "topic", "1")
		require.NoError(t, err)
		require.Empty(t, runs(t, st, store.Filter{Status: store.Failed}))
	})
}
