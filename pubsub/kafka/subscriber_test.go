package kafka_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/internal/testtransport"
	"github.com/reprise-bus/reprise/pubsub/kafka"
	"github.com/reprise-bus/reprise/store"
)

func TestANewHandlerGetsWhatTheTopicHas(t *testing.T) {
	t.Parallel()
	topic := testbroker.Topic(t, 3)
	transport := newTransport(t, kafka.Config{GroupPrefix: topic})
	pub := testtransport.Publisher(t, transport)
	for n := range 10 {
		require.NoError(t, pub.Publish(topic, testtransport.Message(t, fmt.Sprint(n))))
	}
	for _, handler := range []string{"one", "another"} {
		messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, handler), topic)
		for range 10 {
			testkit.Receive(t, messages).Ack()
		}
		waitForCommits(t, newClient(t), topic+handler, topic, 3, 10)
	}
}

// A message of a producer that knows nothing of UUIDs has the same id whenever
// it comes, and Kafka's key where an event can have it.
func TestAForeignMessage(t *testing.T) {
	t.Parallel()
	topic := testbroker.Topic(t, 1)
	produce(t, newClient(t, kgo.RecordPartitioner(kgo.ManualPartitioner())),
		&kgo.Record{Topic: topic, Key: []byte("ada"), Value: []byte("first"), Headers: []kgo.RecordHeader{
			{Key: "twice", Value: []byte("1")}, {Key: "twice", Value: []byte("2")}, {Key: "none"}, {Key: "binary", Value: []byte("\xff")},
		}},
		&kgo.Record{Topic: topic, Key: []byte("\x00\xff"), Value: nil},
		&kgo.Record{Topic: topic, Key: []byte("ada"), Value: []byte(""), Headers: []kgo.RecordHeader{{Key: store.KeyMetadata, Value: []byte("eve")}}},
	)
	for i, handler := range []string{"once", "again"} {
		transport := newTransport(t, kafka.Config{GroupPrefix: topic})
		messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, handler), topic)
		first, tombstone, empty := testkit.Receive(t, messages), testkit.Receive(t, messages), testkit.Receive(t, messages)
		require.Equal(t, topic+"/0/0", first.UUID, i)
		require.Equal(t, map[string]string{"twice": "2", "none": "", "binary": "\xff", "key": "ada"}, map[string]string(first.Metadata))
		require.Equal(t, topic+"/0/1", tombstone.UUID)
		require.Empty(t, tombstone.Payload)
		require.Empty(t, tombstone.Metadata)
		require.Equal(t, "eve", empty.Metadata.Get(store.KeyMetadata))
	}
}

// What is behind a message that is not acked comes meanwhile, and comes again
// after the end, with that message.
func TestWhatIsBehindAnUnackedMessageIsNotMarked(t *testing.T) {
	t.Parallel()
	topic := testbroker.Topic(t, 1)
	transport := newTransport(t, kafka.Config{GroupPrefix: topic})
	pub := testtransport.Publisher(t, transport)
	for n := range 5 {
		require.NoError(t, pub.Publish(topic, testtransport.Message(t, fmt.Sprint(n))))
	}
	sub, err := transport.Subscriber("handler")
	require.NoError(t, err)
	messages := testtransport.Subscribe(t, sub, topic)
	for n := range 5 {
		msg := testkit.Receive(t, messages)
		require.Equal(t, fmt.Sprint(n), string(msg.Payload))
		if n != 2 {
			msg.Ack()
		}
	}
	require.NoError(t, sub.Close())
	_, open := <-messages
	require.False(t, open)
	require.EqualValues(t, 2, committed(t, newClient(t), topic+"handler", topic, 1))

	messages = testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), topic)
	for n := 2; n < 5; n++ {
		msg := testkit.Receive(t, messages)
		require.Equal(t, fmt.Sprint(n), string(msg.Payload))
		msg.Ack()
	}
	waitForCommits(t, newClient(t), topic+"handler", topic, 1, 5)
}

// A nacked message comes testtransport.Again(), as often as it is nacked, and its context ends
// each time.
func TestANackedMessageComesAgain(t *testing.T) {
	t.Parallel()
	topic := testbroker.Topic(t, 1)
	transport := newTransport(t, kafka.Config{GroupPrefix: topic})
	require.NoError(t, testtransport.Publisher(t, transport).Publish(topic, testtransport.Message(t, "0"), testtransport.Message(t, "1")))
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), topic)
	first, second := testkit.Receive(t, messages), testkit.Receive(t, messages)
	second.Ack()
	for range 3 {
		require.NoError(t, first.Context().Err())
		first.Nack()
		next := testkit.Receive(t, messages)
		require.Equal(t, first.UUID, next.UUID)
		<-first.Context().Done()
		first = next
	}
	first.Ack()
	waitForCommits(t, newClient(t), topic+"handler", topic, 1, 2)
}

// More than what may be under way at once, none of it acked for a while.
func TestMuchIsUnderWayAtOnce(t *testing.T) {
	t.Parallel()
	const n, size = 3000, 5_000
	topic := testbroker.Topic(t, 1)
	transport := newTransport(t, kafka.Config{GroupPrefix: topic})
	client := newClient(t, kgo.ProducerBatchCompression(kgo.NoCompression()))
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Topic: topic, Value: make([]byte, size)}
	}
	produce(t, client, records...)
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), topic)
	var unacked []*message.Message
	for len(unacked) <= 500 {
		unacked = append(unacked, testkit.Receive(t, messages))
	}
	for quiet := false; !quiet; {
		select {
		case msg := <-messages:
			unacked = append(unacked, msg)
		case <-time.After(3 * time.Second): // a slow machine may see the bound too late, but never in error
			quiet = true
		}
	}
	require.Less(t, len(unacked), 2000, "it is bounded")
	for _, msg := range unacked {
		msg.Ack()
	}
	for range n - len(unacked) {
		testkit.Receive(t, messages).Ack()
	}
	waitForCommits(t, client, topic+"handler", topic, 1, n)
}

func TestPartitionsThatAreAddedAreNoticed(t *testing.T) {
	t.Parallel()
	topic := testbroker.Topic(t, 1)
	transport := newTransport(t, kafka.Config{GroupPrefix: topic, Sarama: func(c *sarama.Config) {
		c.Metadata.RefreshFrequency = 250 * time.Millisecond
	}})
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), topic)
	client := newClient(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	produce(t, client, &kgo.Record{Topic: topic, Value: []byte("before")})
	testkit.Receive(t, messages).Ack()
	testbroker.AddPartitions(t, testbroker.Kafka(t), topic, 3)
	after := newClient(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	produce(t, after, &kgo.Record{Topic: topic, Partition: 2, Value: []byte("after")})
	msg := testkit.Receive(t, messages)
	require.Equal(t, topic+"/2/0", msg.UUID)
	msg.Ack()
	waitForCommits(t, client, topic+"handler", topic, 3, 2)
}

// Neither a broker that is away nor a topic that does not exist fails a
// subscription, which is told once.
func TestASubscriptionWaitsForItsTopicAndTheBroker(t *testing.T) {
	t.Parallel()
	broker := testbroker.OwnKafka(t, "auto.create.topics.enable=false")
	lines, logger := testtransport.NewLogged(t)
	transport := newTransport(t, kafka.Config{Brokers: []string{broker.Addr}, Logger: logger})
	broker.Stop()
	sub := testtransport.Subscriber(t, transport, "handler")
	messages := testtransport.Subscribe(t, sub, "late")
	require.Eventually(t, func() bool { return lines.Count("receiving late as handler fails") == 1 }, patience, 10*time.Millisecond)
	broker.Start()
	testbroker.CreateTopic(t, []string{broker.Addr}, "late", 1)
	require.NoError(t, testtransport.Publisher(t, transport).Publish("late", testtransport.Message(t, "x")))
	testkit.Receive(t, messages).Ack()
	require.Equal(t, 1, lines.Count("receiving late as handler fails"))
	require.Equal(t, 1, lines.Count("receiving late as handler works again"))

	require.NoError(t, testtransport.Subscriber(t, transport, "another").(interface{ SubscribeInitialize(string) error }).SubscribeInitialize("made"))
	require.NoError(t, testtransport.Subscriber(t, transport, "another").(interface{ SubscribeInitialize(string) error }).SubscribeInitialize("made"))
	require.NoError(t, testtransport.Publisher(t, transport).Publish("made", testtransport.Message(t, "x")))
}

// Closing does not wait for a broker that is away.
func TestCloseWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	transport := newTransport(t, kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	sub, err := transport.Subscriber("handler")
	require.NoError(t, err)
	messages := testtransport.Subscribe(t, sub, "topic")
	began := time.Now()
	require.NoError(t, sub.Close())
	_, open := <-messages
	require.False(t, open)
	require.Less(t, time.Since(began), 25*time.Second)
	_, err = sub.Subscribe(t.Context(), "topic")
	require.ErrorContains(t, err, "the subscriber is closed")
	_, err = sub.Subscribe(t.Context(), "no topic")
	require.ErrorIs(t, err, sarama.ErrInvalidTopic)
	require.NoError(t, sub.Close())
}

// A message may take longer than a member may be silent, or a rebalance last.
func TestAMessageTakesItsTime(t *testing.T) {
	t.Parallel()
	topic := testbroker.Topic(t, 1)
	lines, logger := testtransport.NewLogged(t)
	transport := newTransport(t, kafka.Config{GroupPrefix: topic, Logger: logger, Sarama: func(c *sarama.Config) {
		c.Consumer.Group.Session.Timeout = 6 * time.Second
		c.Consumer.Group.Heartbeat.Interval = time.Second
		c.Consumer.Group.Rebalance.Timeout = 3 * time.Second
	}})
	require.NoError(t, testtransport.Publisher(t, transport).Publish(topic, testtransport.Message(t, "slow"), testtransport.Message(t, "next")))
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), topic)
	slow := testkit.Receive(t, messages)
	testkit.Receive(t, messages).Ack()
	select {
	case msg := <-messages:
		t.Fatalf("%s came again", msg.Payload)
	case <-time.After(9 * time.Second): // nothing happens is what is to be seen
	}
	require.NoError(t, slow.Context().Err())
	slow.Ack()
	waitForCommits(t, newClient(t), topic+"handler", topic, 1, 2)
	require.Zero(t, lines.Count("receiving"))
}

// A broker that does not answer holds up no end.
func TestCloseWhileTheBrokerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	accepted := make(chan net.Conn, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	transport := newTransport(t, kafka.Config{Brokers: []string{listener.Addr().String()}})
	sub, err := transport.Subscriber("handler")
	require.NoError(t, err)
	messages := testtransport.Subscribe(t, sub, "topic")
	defer testkit.Receive(t, accepted).Close()
	began := time.Now()
	require.NoError(t, sub.Close())
	_, open := <-messages
	require.False(t, open)
	require.Less(t, time.Since(began), 25*time.Second)
}
