package reprise_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/kafka"
	"github.com/reprise-bus/reprise/store"
)

// Two services on one topic, each with a database of its own and a handler that
// happens to have the other's name: what one publishes both handle, each on its
// own record.
func TestServicesShareATopic(t *testing.T) {
	t.Parallel()
	names, unique := marshaler(t), testbroker.Name("service")
	service := func(name, url string) (*bus.Bus, <-chan userSignedUp) {
		carrier, err := kafka.New(kafka.Config{Brokers: testbroker.Kafka(t), GroupPrefix: unique + name + "-", Logger: logger(t)})
		require.NoError(t, err)
		b := open(t, url, carrier, names)
		handled := make(chan userSignedUp, 10)
		require.NoError(t, b.Handle(handlers.New("on-sign-up", func(_ context.Context, e userSignedUp) error {
			handled <- e
			return nil
		})))
		run(t, b)
		return b, handled
	}
	accounts, inAccounts := service("accounts", testdb.Postgres(t))
	mails, inMails := service("mails", testdb.SQLite(t))

	require.NoError(t, accounts.Publish(t.Context(), userSignedUp{ID: "u1"}))
	require.Equal(t, "u1", testkit.Receive(t, inAccounts).ID)
	require.Equal(t, "u1", testkit.Receive(t, inMails).ID)
	require.NoError(t, mails.Publish(t.Context(), userSignedUp{ID: "u2"}))
	require.Equal(t, "u2", testkit.Receive(t, inAccounts).ID)
	require.Equal(t, "u2", testkit.Receive(t, inMails).ID)
	for _, b := range []*bus.Bus{accounts, mails} {
		for _, key := range []string{"u1", "u2"} {
			recorded := testkit.WaitForRun(t, b.Store(), store.Filter{Key: key, Status: store.Success})
			event, err := b.Store().Event(t.Context(), recorded.Topic, recorded.EventID)
			require.NoError(t, err)
			require.Equal(t, "kafka", event.Source)
		}
	}
}

// A wrong configuration is an error of Open, and a broker that is not there is
// none.
func TestATransportIsCheckedWhenTheBusIsMade(t *testing.T) {
	t.Parallel()
	nowhere, err := kafka.New(kafka.Config{Brokers: []string{"127.0.0.1:1"}, Logger: logger(t)})
	require.NoError(t, err)
	b := open(t, testdb.SQLite(t), nowhere, marshaler(t))
	require.NoError(t, b.Publish(t.Context(), userSignedUp{ID: "u1"}), "it waits in the outbox")
	waiting, err := b.Store().Outbox(t.Context(), store.OutboxFilter{})
	require.NoError(t, err)
	require.Len(t, waiting, 1)
	require.Equal(t, "u1", waiting[0].Event.Key)

	_, err = bus.Open(t.Context(), testdb.SQLite(t), bus.Config{Transport: &pubsub.Transport{}})
	require.ErrorContains(t, err, "field Transport: field Name is empty")
	_, err = bus.Open(t.Context(), testdb.SQLite(t), bus.Config{Topics: map[string]bus.Topic{"orders": {Mode: pubsub.Hold}}})
	require.ErrorContains(t, err, `field Topics["orders"]: mode "hold" without a Transport`)
	_, err = bus.Open(t.Context(), testdb.SQLite(t), bus.Config{Transport: nowhere, Topics: map[string]bus.Topic{"orders": {Mode: "later"}}})
	require.ErrorContains(t, err, `field Topics["orders"]: mode "later"`)
}

type unheard struct{ ID string }

func (unheard) EventName() string { return "no topic of Kafka's" }

// What no topic of the broker can be called is refused by Handle and by Publish.
func TestATopicThatTheTransportCannotHaveIsRefused(t *testing.T) {
	t.Parallel()
	nowhere, err := kafka.New(kafka.Config{Brokers: []string{"127.0.0.1:1"}, Logger: logger(t)})
	require.NoError(t, err)
	b := open(t, testdb.SQLite(t), nowhere, marshaler(t))
	const want = `no topic of Kafka's": want 1 to 249 of a-z`
	require.ErrorContains(t, b.Handle(handlers.New("handler", func(context.Context, unheard) error { return nil })), want)
	require.ErrorContains(t, b.Publish(t.Context(), unheard{}), want)
	require.ErrorContains(t, b.InTx(t.Context(), func(tx *bus.Tx) error { return b.PublishTx(t.Context(), tx, unheard{}) }), want)
	written, err := b.Store().Outbox(t.Context(), store.OutboxFilter{})
	require.NoError(t, err)
	require.Empty(t, written)
}
