package kafka_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/internal/testtransport"
	"github.com/reprise-bus/reprise/pubsub/kafka"
	"github.com/reprise-bus/reprise/store"
)

// The hashes are those of the test of Kafka's Java client (UtilsTest).
func TestAKeyHasThePartitionThatJavaGivesIt(t *testing.T) {
	t.Parallel()
	const partitions = 12
	topic := testbroker.Topic(t, partitions)
	pub := testtransport.Publisher(t, newTransport(t, kafka.Config{}))
	want := map[string]int32{}
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		want[key] = (hash & 0x7fffffff) % partitions
		msg := testtransport.Message(t, "x")
		msg.Metadata.Set(store.KeyMetadata, key)
		require.NoError(t, pub.Publish(topic, msg))
	}
	got := map[string]int32{}
	for _, r := range consume(t, newClient(t, kgo.ConsumeTopics(topic)), len(want)) {
		got[string(r.Key)] = r.Partition
	}
	require.Equal(t, want, got)
}

// What has one key stays in order, through whatever else is published at once.
func TestWhatHasOneKeyIsInOrder(t *testing.T) {
	t.Parallel()
	topic := testbroker.Topic(t, 3)
	pub := testtransport.Publisher(t, newTransport(t, kafka.Config{}))
	var all sync.WaitGroup
	const keys, each = 8, 50
	for key := range keys {
		all.Go(func() {
			for n := range each {
				msg := testtransport.Message(t, fmt.Sprint(n))
				msg.Metadata.Set(store.KeyMetadata, fmt.Sprint(key))
				if err := pub.Publish(topic, msg); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	next := map[string]int{}
	for _, r := range consume(t, newClient(t, kgo.ConsumeTopics(topic)), keys*each) {
		require.Equal(t, fmt.Sprint(next[string(r.Key)]), string(r.Value))
		next[string(r.Key)]++
	}
}

func TestAMessageComesBackAsItWas(t *testing.T) {
	t.Parallel()
	topic := testbroker.Topic(t, 1)
	transport := newTransport(t, kafka.Config{GroupPrefix: topic})
	sent := []*message.Message{testtransport.Message(t, `{"n": 1}`), testtransport.Message(t, "\x00\xff"), testtransport.Message(t, "")}
	sent[0].Metadata = message.Metadata{
		store.KeyMetadata: "ada",
		"traceparent":     "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"empty":           "", "with space": "a: b\r\nc", "größe": "\u2028",
	}
	require.NoError(t, testtransport.Publisher(t, transport).Publish(topic, sent...))
	got := map[string]*message.Message{}
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), topic)
	for range sent {
		msg := testkit.Receive(t, messages)
		msg.Ack()
		got[msg.UUID] = msg
	}
	for _, msg := range sent {
		require.True(t, msg.Equals(got[msg.UUID]), "%v came back as %v", msg, got[msg.UUID])
	}
}

// Those who use watermill-kafka understand it, and are understood.
func TestWatermillKafkaIsUnderstood(t *testing.T) {
	t.Parallel()
	topic := testbroker.Topic(t, 1)
	theirs, err := watermillkafka.NewPublisher(watermillkafka.PublisherConfig{Brokers: testbroker.Kafka(t), Marshaler: watermillkafka.DefaultMarshaler{}}, nil)
	require.NoError(t, err)
	defer theirs.Close()
	transport := newTransport(t, kafka.Config{GroupPrefix: topic})
	sent := testtransport.Message(t, "theirs")
	sent.Metadata.Set("a", "b")
	require.NoError(t, theirs.Publish(topic, sent))
	msg := testkit.Receive(t, testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), topic))
	require.True(t, sent.Equals(msg))
	msg.Ack()

	config := watermillkafka.DefaultSaramaSubscriberConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	reader, err := watermillkafka.NewSubscriber(watermillkafka.SubscriberConfig{
		Brokers: testbroker.Kafka(t), Unmarshaler: watermillkafka.DefaultMarshaler{}, ConsumerGroup: topic, OverwriteSaramaConfig: config,
	}, nil)
	require.NoError(t, err)
	defer reader.Close()
	ours := testtransport.Message(t, "ours")
	require.NoError(t, testtransport.Publisher(t, transport).Publish(topic, ours))
	messages := testtransport.Subscribe(t, reader, topic)
	testkit.Receive(t, messages).Ack()
	msg = testkit.Receive(t, messages)
	require.True(t, ours.Equals(msg))
	msg.Ack()
}

func TestWhatIsRefusedAndWhatIsNot(t *testing.T) {
	t.Parallel()
	const largest = 20_000
	broker := testbroker.OwnKafka(t, "auto.create.topics.enable=false", fmt.Sprintf("message.max.bytes=%d", largest))
	testbroker.CreateTopic(t, []string{broker.Addr}, "topic", 1)
	transport := newTransport(t, kafka.Config{Brokers: []string{broker.Addr}})
	pub := testtransport.Publisher(t, transport)
	fits, large, huge := testtransport.Message(t, strings.Repeat("x", largest*3/5)), testtransport.Message(t, strings.Repeat("x", largest+1)), testtransport.Message(t, strings.Repeat("x", 2<<20))
	require.NoError(t, pub.Publish("topic", fits))
	reserved := testtransport.Message(t, "x")
	reserved.Metadata.Set(watermillkafka.UUIDHeaderKey, "x")
	for what, err := range map[string]error{
		"too large for the broker": pub.Publish("topic", large),
		"too large for the client": pub.Publish("topic", huge),
		"no name of a topic":       pub.Publish("no topic/at all", testtransport.Message(t, "x")),
		"reserved metadata":        pub.Publish("topic", reserved),
	} {
		require.Error(t, err, what)
		require.True(t, transport.Refused(err), "%s: %v", what, err)
		require.NotContains(t, err.Error(), "xxx")
	}
	began := time.Now()
	err := pub.Publish("missing", testtransport.Message(t, "x"))
	require.ErrorIs(t, err, sarama.ErrUnknownTopicOrPartition)
	require.Less(t, time.Since(began), 25*time.Second)
	require.False(t, transport.Refused(err))
	require.False(t, transport.Refused(errors.New("anything else")))

	// A batch of several that the broker refuses as a whole.
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := pub.Publish("topic", fits.Copy()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// A broker that is away is reported soon, and is used again when it is back.
func TestAPublishFailsSoonWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	broker := testbroker.OwnKafka(t)
	transport := newTransport(t, kafka.Config{Brokers: []string{broker.Addr}})
	pub := testtransport.Publisher(t, transport)
	require.NoError(t, pub.Publish("topic", testtransport.Message(t, "before")))
	broker.Kill()
	for range 2 {
		began := time.Now()
		err := pub.Publish("topic", testtransport.Message(t, "never"))
		require.Error(t, err)
		require.False(t, transport.Refused(err))
		require.Less(t, time.Since(began), 25*time.Second)
	}
	_, err := transport.Publisher()
	require.Error(t, err)
	require.False(t, transport.Refused(err))
	broker.Start()
	require.Eventually(t, func() bool { return pub.Publish("topic", testtransport.Message(t, "after")) == nil }, patience, 10*time.Millisecond)
}

func TestWhoConnectsIsSaid(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(nil) // for its certificate
	t.Cleanup(server.Close)
	trusted := server.Client().Transport.(*http.Transport).TLSClientConfig
	for _, mechanism := range []string{"", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			name := mechanism
			if name == "" {
				name = "PLAIN"
			}
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.EnableSASL(),
				kfake.Superuser(name, "us=er,", "pässword"), kfake.TLS(&tls.Config{Certificates: server.TLS.Certificates}))
			require.NoError(t, err)
			defer cluster.Close()
			config := kafka.Config{
				Brokers: cluster.ListenAddrs(), Username: "us=er,", Password: "pässword", Mechanism: mechanism, TLS: trusted,
			}
			require.NoError(t, testtransport.Publisher(t, newTransport(t, config)).Publish("topic", testtransport.Message(t, "x")))
			msg := testkit.Receive(t, testtransport.Subscribe(t, testtransport.Subscriber(t, newTransport(t, config), "handler"), "topic"))
			require.Equal(t, "x", string(msg.Payload))
			msg.Ack()

			config.Password = "another"
			_, err = newTransport(t, config).Publisher()
			require.Error(t, err)
			require.NotContains(t, err.Error(), "another")
		})
	}
}
