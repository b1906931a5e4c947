package reprise_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/kafka"
	"github.com/reprise-bus/reprise/pubsub/nats"
)

// via returns a transport for one more process of a test: they share a broker,
// and consumer groups that no other test has.
type via func(t *testing.T) *pubsub.Transport

// eachTransport runs f on every database, and on every transport over it. Each
// call of open is another process, so to say.
func eachTransport(t *testing.T, f func(t *testing.T, open func() *bus.Bus)) {
	for name, connect := range map[string]func(t *testing.T) via{
		"database":  func(*testing.T) via { return func(*testing.T) *pubsub.Transport { return nil } },
		"gochannel": goChannelVia,
		"kafka":     kafkaVia,
		"nats":      natsVia,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testdb.Each(t, func(t *testing.T, url string) {
				connection, names := connect(t), marshaler(t)
				f(t, func() *bus.Bus { return open(t, url, connection(t), names) })
			})
		})
	}
}

// marshaler names the events of a test so that their topics are no other's.
func marshaler(*testing.T) cqrs.CommandEventMarshaler {
	unique := testbroker.Name("test") + "."
	return cqrs.JSONMarshaler{
		NewUUID:      func() string { return uuid.Must(uuid.NewV7()).String() },
		GenerateName: func(event any) string { return unique + handlers.EventName(event) },
	}
}

// goChannelVia is a transport within this process: any Watermill Pub/Sub is one.
func goChannelVia(t *testing.T) via {
	t.Helper()
	channel := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	t.Cleanup(func() { require.NoError(t, channel.Close()) })
	return func(*testing.T) *pubsub.Transport {
		return &pubsub.Transport{
			Name:       "gochannel",
			Publisher:  func() (message.Publisher, error) { return openEnded{channel}, nil },
			Subscriber: func(string) (message.Subscriber, error) { return openEnded{channel}, nil },
		}
	}
}

// openEnded is a GoChannel that outlives the buses that close it.
type openEnded struct{ *gochannel.GoChannel }

func (openEnded) Close() error { return nil }

// kafkaVia is the broker of the test run.
func kafkaVia(t *testing.T) via {
	t.Helper()
	brokers, groups := testbroker.Kafka(t), testbroker.Name("group")+"-"
	return func(t *testing.T) *pubsub.Transport {
		t.Helper()
		carrier, err := kafka.New(kafka.Config{Brokers: brokers, GroupPrefix: groups, Logger: logger(t)})
		require.NoError(t, err)
		return carrier
	}
}

// natsVia is a NATS server within this process.
func natsVia(t *testing.T) via {
	t.Helper()
	broker, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	require.NoError(t, err)
	go broker.Start()
	t.Cleanup(func() {
		broker.Shutdown()
		broker.WaitForShutdown()
	})
	require.True(t, broker.ReadyForConnections(time.Minute))
	return func(t *testing.T) *pubsub.Transport {
		t.Helper()
		carrier, err := nats.New(nats.Config{URL: broker.ClientURL(), Logger: logger(t)})
		require.NoError(t, err)
		return carrier
	}
}
