package bus_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// The payload of what is published has a limit, on every way.
func TestALargePayloadIsRefused(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		ctx := t.Context()
		taken := &broker{}
		b, err := bus.Open(ctx, url, bus.Config{MaxPayload: 100, Transport: taken.transport(pubsub.ViaOutbox), Topics: map[string]bus.Topic{"order.placed": {Mode: pubsub.ViaDatabase}}})
		require.NoError(t, err)
		defer func() { require.NoError(t, b.Close()) }()
		fits, large := placed{strings.Repeat("x", 80)}, placed{strings.Repeat("x", 101)}
		sent := paid(large)
		inTx := func(event any) error {
			return b.InTx(ctx, func(tx *bus.Tx) error { return b.PublishTx(ctx, tx, event) })
		}
		for way, publish := range map[string]func() error{
			"Publish":     func() error { return b.Publish(ctx, large) },
			"InTx":        func() error { return inTx(large) },
			"Outbox":      func() error { return b.Publish(ctx, sent) },
			"Outbox InTx": func() error { return inTx(sent) },
		} {
			err := publish()
			require.ErrorIs(t, err, pubsub.ErrTooLarge, way)
			require.ErrorContains(t, err, "bytes of payload: want at most 100: ", way)
			require.ErrorContains(t, err, "MaxPayload of bus.Config", way)
			require.NotContains(t, err.Error(), large.Order, way)
		}
		require.NoError(t, b.Publish(ctx, fits))
		require.NoError(t, inTx(fits))
		events, _, err := b.Store().Events(ctx, store.EventFilter{})
		require.NoError(t, err)
		require.Len(t, events, 2)

		_, err = bus.Open(ctx, url, bus.Config{MaxPayload: -1})
		require.ErrorContains(t, err, "field MaxPayload -1: want at least 1 byte")
	})
}

// The default is 16 MiB, of payload; metadata has a limit of its own.
func TestTheDefaultLimits(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		ps, err := pubsub.New(b.Store(), pubsub.Config{})
		require.NoError(t, err)
		defer func() { require.NoError(t, ps.Close()) }()
		publish := func(payload int, key, value string) error {
			msg := message.NewMessage("", bytes.Repeat([]byte("x"), payload))
			msg.Metadata.Set(key, value)
			return ps.Publisher().Publish("blobs", msg)
		}
		require.NoError(t, publish(16<<20, "a", "b"))
		require.ErrorContains(t, publish(16<<20+1, "a", "b"), "has 16777217 bytes of payload: want at most 16777216")
		require.NoError(t, publish(1, "k", strings.Repeat("v", pubsub.MaxMetadata-1)))
		require.ErrorContains(t, publish(1, "k", strings.Repeat("v", pubsub.MaxMetadata)), fmt.Sprintf("bytes of metadata: want at most %d", pubsub.MaxMetadata))
		require.ErrorContains(t, publish(1, store.KeyMetadata, strings.Repeat("k", 256)), "has 256 bytes: want at most 255")
	})
}

// broker is a transport that takes nothing.
type broker struct{}

var errNoBroker = errors.New("there is no broker")

func (*broker) transport(mode pubsub.Mode) *pubsub.Transport {
	return &pubsub.Transport{
		Name: "test", Mode: mode,
		Publisher:  func() (message.Publisher, error) { return nil, errNoBroker },
		Subscriber: func(string) (message.Subscriber, error) { return nil, errNoBroker },
	}
}
