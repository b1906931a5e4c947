package pubsub_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// Watermill's PoisonQueue and requeuer publish a message again under its UUID, with
// other metadata: that is another event. The very same message is not, which a line
// in the log says.
func TestWhatIsPublishedAgainIsAnotherEventIfItsMetadataIs(t *testing.T) {
	for name, publish := range map[string]func(t *testing.T, ps *pubsub.PubSub, st *store.Store, messages ...*message.Message) error{
		"by itself": func(_ *testing.T, ps *pubsub.PubSub, _ *store.Store, messages ...*message.Message) error {
			return ps.Publisher().Publish("topic", messages...)
		},
		"in a transaction": func(t *testing.T, ps *pubsub.PubSub, st *store.Store, messages ...*message.Message) error {
			tx, err := st.DB().BeginTxx(t.Context(), nil)
			require.NoError(t, err)
			if err := ps.PublisherTx(tx).Publish("topic", messages...); err != nil {
				require.NoError(t, tx.Rollback())
				return err
			}
			return tx.Commit()
		},
		"in InTx": func(t *testing.T, ps *pubsub.PubSub, _ *store.Store, messages ...*message.Message) error {
			return ps.InTx(t.Context(), func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish("topic", messages...) })
		},
	} {
		for size, company := range map[string]*message.Message{
			"": nil, ", with more than a statement takes": message.NewMessage("large", bytes.Repeat([]byte("x"), 8<<20)),
		} {
			t.Run(name+size, func(t *testing.T) {
				testdb.Each(t, func(t *testing.T, url string) {
					st := testkit.OpenStore(t, url)
					var log lines
					ps := configured(t, st, pubsub.Config{Logger: log.logger()})
					messages := subscribe(t, ps, "topic", "handler")
					known := 1
					publish := func(msg *message.Message) {
						if company == nil {
							require.NoError(t, publish(t, ps, st, msg))
							return
						}
						known = 2
						require.NoError(t, publish(t, ps, st, msg, company.Copy()))
					}
					first := message.NewMessage("1", []byte("x"))
					handled := map[string]int{}
					handle := func(n int) {
						for len(handled) < n {
							msg := testkit.Receive(t, messages)
							if msg.UUID != "large" {
								require.Equal(t, "x", string(msg.Payload))
							}
							handled[msg.UUID]++
							msg.Ack()
						}
						testkit.WaitForStatus(t, st, "handler", store.Success, n)
						testkit.RequireCount(t, st, "handler_runs", n)
					}
					publish(first)
					handle(known)
					require.Empty(t, log.of(t, "known"))

					publish(first)
					found := log.of(t, "known")
					require.Len(t, found, 1)
					require.Equal(t, "INFO", found[0]["level"])
					require.Contains(t, found[0]["msg"], "published again")
					require.Equal(t, "topic", found[0]["topic"])
					require.Equal(t, "1", found[0]["event"])
					require.EqualValues(t, known, found[0]["known"])
					require.EqualValues(t, known, found[0]["published"])
					testkit.RequireCount(t, st, "handler_runs", known)

					other := message.NewMessage("1", []byte("x"))
					other.Metadata.Set("retries", "1")
					publish(other)
					handle(known + 1)
					require.Equal(t, 1, handled["1"])
					publish(other)
					lines := log.of(t, "known")
					require.EqualValues(t, known, lines[len(lines)-1]["known"], "the repeat is known as well")
					testkit.RequireCount(t, st, "handler_runs", known+1)
					for id := range handled {
						event, err := st.Event(t.Context(), "topic", id)
						require.NoError(t, err)
						if event.Metadata["retries"] != "" {
							require.Equal(t, "1", event.Metadata[store.RepeatsMetadata])
						}
					}
				})
			})
		}
	}
}

// declaring declares its identity, by a method that is the pointer's.
type declaring struct{ ID string }

func (d *declaring) EventID() string { return d.ID }

// An event that declares its identity is the same event, whatever its metadata says.
func TestAnEventWithAnEventIDIsHandledOnce(t *testing.T) {
	for name, event := range map[string]any{"value": declaring{ID: "1"}, "pointer": &declaring{ID: "1"}} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				ps := newPubSub(t, st)
				messages := subscribe(t, ps, "pubsub_test.declaring", "handler")
				for _, tenant := range []string{"a", "b"} {
					topic, msg, err := handlers.Message(context.Background(), cqrs.JSONMarshaler{}, event)
					require.NoError(t, err)
					require.Equal(t, "1", msg.UUID)
					msg.Metadata.Set("tenant", tenant)
					require.NoError(t, ps.Publisher().Publish(topic, msg))
				}
				testkit.Receive(t, messages).Ack()
				testkit.WaitForStatus(t, st, "handler", store.Success, 1)
				testkit.RequireCount(t, st, "handler_runs", 1)
			})
		})
	}
}

// What a poison queue has taken from a handler behind an Inbox, and a requeuer brings
// back, is handled.
func TestAnInboxHandlesWhatComesBackFromAPoisonQueue(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		g := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
		t.Cleanup(func() { require.NoError(t, g.Close()) })
		in, err := newPubSub(t, st).Inbox(g, "handler", handlers.Policy{Attempts: 1, Cycles: 1}, pubsub.InboxConfig{})
		require.NoError(t, err)
		poison, err := wmiddleware.PoisonQueue(g, "poison")
		require.NoError(t, err)
		router := routerOf(t)
		router.AddMiddleware(poison, middleware.Record(st))
		router.AddConsumerHandler("handler", "topic", in, func(msg *message.Message) error {
			if msg.Metadata.Get("retries") == "" {
				return errWrong
			}
			return nil
		})
		start(t, router)
		poisoned, err := g.Subscribe(t.Context(), "poison")
		require.NoError(t, err)
		sent := newMessage("x")
		require.NoError(t, g.Publish("topic", sent))
		msg := testkit.Receive(t, poisoned)
		requeued := msg.Copy()
		msg.Ack()
		require.Equal(t, sent.UUID, requeued.UUID)
		requeued.Metadata.Set("retries", "1")
		require.NoError(t, g.Publish("topic", requeued))
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
	})
}
