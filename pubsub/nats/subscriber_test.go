package nats_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/internal/testtransport"
	"github.com/reprise-bus/reprise/pubsub/nats"
)

func TestANewHandlerGetsWhatTheStreamHas(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	transport := newTransport(t, nats.Config{URL: s.URL})
	pub := testtransport.Publisher(t, transport)
	require.NoError(t, pub.Publish("topic", testtransport.Message(t, "one"), testtransport.Message(t, "two")))
	for _, handler := range []string{"first", "second"} {
		messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, handler), "topic")
		require.Equal(t, "one", string(testkit.Receive(t, messages).Payload), handler)
		require.Equal(t, "two", string(testkit.Receive(t, messages).Payload), handler)
	}
	_, js := s.Client()
	consumer, err := js.Consumer(t.Context(), "topic", "first")
	require.NoError(t, err)
	require.Equal(t, jetstream.AckExplicitPolicy, consumer.CachedInfo().Config.AckPolicy)
	require.Equal(t, 30*time.Second, consumer.CachedInfo().Config.AckWait)
}

// Two processes get each message once, together.
func TestProcessesShareAHandler(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	transport := newTransport(t, nats.Config{URL: s.URL, GroupPrefix: "shop-"})
	pub := testtransport.Publisher(t, transport)
	one := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	other := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	seen, published := map[string]int{}, 0
	for deadline := time.After(patience); seen["one"] == 0 || seen["other"] == 0 || published > seen["one"]+seen["other"]; {
		if seen["one"] == 0 || seen["other"] == 0 {
			require.NoError(t, pub.Publish("topic", testtransport.Message(t, fmt.Sprint(published))))
			published++
		}
		who, msg := "one", (*message.Message)(nil)
		select {
		case msg = <-one:
		case msg = <-other:
			who = "other"
		case <-deadline:
			t.Fatal(seen)
		}
		seen[who]++
		seen[string(msg.Payload)]++
		msg.Ack()
	}
	for i := range published {
		require.Equal(t, 1, seen[fmt.Sprint(i)])
	}
	_, js := s.Client()
	waitForAcks(t, js, "topic", "shop-handler")
}

func TestManyMessagesAreUnderWayAtOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	transport := newTransport(t, nats.Config{URL: s.URL})
	many := make([]*message.Message, 1000)
	for i := range many {
		many[i] = testtransport.Message(t, fmt.Sprint(i))
	}
	require.NoError(t, testtransport.Publisher(t, transport).Publish("topic", many...))
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	for i := range many {
		require.Equal(t, fmt.Sprint(i), string(testkit.Receive(t, messages).Payload))
	}
}

// What is large does not fill the memory of a process that cannot record it.
func TestLargeMessagesWaitForAcks(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	transport := newTransport(t, nats.Config{URL: s.URL})
	pub := testtransport.Publisher(t, transport)
	payload := strings.Repeat("x", 1<<20-200)
	for range 30 {
		require.NoError(t, pub.Publish("topic", testtransport.Message(t, payload)))
	}
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	var unacked []*message.Message
	most := 0
	for received := range 30 {
		var msg *message.Message
		select {
		case msg = <-messages:
		default:
			if received >= 15 { // so many come before any ack
				unacked[0].Ack()
				unacked = unacked[1:]
			}
			msg = testkit.Receive(t, messages)
		}
		unacked = append(unacked, msg)
		most = max(most, len(unacked))
	}
	require.LessOrEqual(t, most, 16)
}

func TestWhatIsNotAckedComesAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	transport := newTransport(t, nats.Config{URL: s.URL, AckWait: time.Second})
	require.NoError(t, testtransport.Publisher(t, transport).Publish("topic", testtransport.Message(t, "x")))
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	first := testkit.Receive(t, messages)
	second := testkit.Receive(t, messages)
	require.Equal(t, first.UUID, second.UUID, "after AckWait")
	second.Nack()
	third := testkit.Receive(t, messages)
	require.Equal(t, first.UUID, third.UUID, "after a nack")
	third.Ack()
	_, js := s.Client()
	waitForAcks(t, js, "topic", "handler")
}

// Nobody has taken it: the next process need not wait for AckWait.
func TestWhatASubscriberDidNotHandOnIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(sub message.Subscriber, cancel func()) error{
		"context": func(_ message.Subscriber, cancel func()) error { cancel(); return nil },
		"Close":   func(sub message.Subscriber, _ func()) error { return sub.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			transport := newTransport(t, nats.Config{URL: s.URL, AckWait: time.Hour})
			many := make([]*message.Message, 1200)
			for i := range many {
				many[i] = testtransport.Message(t, fmt.Sprint(i))
			}
			require.NoError(t, testtransport.Publisher(t, transport).Publish("topic", many...))
			ctx, cancel := context.WithCancel(t.Context())
			sub := testtransport.Subscriber(t, transport, "handler")
			messages, err := sub.Subscribe(ctx, "topic")
			require.NoError(t, err)
			_, js := s.Client()
			consumer := waitForConsumer(t, js, "topic", "handler")
			require.Eventually(t, func() bool {
				info, err := consumer.Info(t.Context())
				return err == nil && info.NumAckPending > 600 // those that wait here, and some that wait in the client
			}, patience, time.Millisecond)
			kept := testkit.Receive(t, messages)
			kept.Ack()
			require.NoError(t, end(sub, cancel))
			taken := map[string]bool{kept.UUID: true}
			for msg := range messages {
				taken[msg.UUID] = true
				msg.Ack()
			}

			next := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
			for len(taken) < len(many) {
				msg := testkit.Receive(t, next)
				taken[msg.UUID] = true
				msg.Ack()
			}
			cancel()
		})
	}
}

// What is acked before Close, or within a second after it, is acked.
func TestCloseDrains(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	transport := newTransport(t, nats.Config{URL: s.URL, AckWait: time.Hour})
	require.NoError(t, testtransport.Publisher(t, transport).Publish("topic", testtransport.Message(t, "before"), testtransport.Message(t, "after")))
	sub := testtransport.Subscriber(t, transport, "handler")
	messages := testtransport.Subscribe(t, sub, "topic")
	testkit.Receive(t, messages).Ack()
	last := testkit.Receive(t, messages)
	closed := make(chan error, 1)
	go func() { closed <- sub.Close() }()
	_, open := <-messages
	require.False(t, open)
	require.NoError(t, last.Context().Err())
	last.Ack()
	require.NoError(t, testkit.Receive(t, closed))
	_, js := s.Client()
	waitForAcks(t, js, "topic", "handler")
	_, err := sub.Subscribe(t.Context(), "topic")
	require.ErrorContains(t, err, "closed")
	require.NoError(t, sub.Close())
}

// Subscribe does not wait for the server, and tells once what is wrong.
func TestASubscriptionWaitsForTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Stop()
	log, logger := testtransport.NewLogged(t)
	transport := newTransport(t, nats.Config{URL: s.URL, Logger: logger})
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	for outage := 1; outage <= 2; outage++ {
		require.Eventually(t, func() bool { return log.Count("receiving topic from NATS fails") == outage }, patience, time.Millisecond)
		s.Start()
		var pub message.Publisher
		require.Eventually(t, func() (connected bool) {
			var err error
			pub, err = transport.Publisher()
			return err == nil
		}, patience, 10*time.Millisecond)
		require.NoError(t, pub.Publish("topic", testtransport.Message(t, fmt.Sprint(outage))))
		msg := testkit.Receive(t, messages)
		require.Equal(t, fmt.Sprint(outage), string(msg.Payload))
		msg.Ack()
		require.NoError(t, pub.Close())
		require.Equal(t, outage, log.Count("receiving topic from NATS works again"))
		require.Equal(t, outage, log.Count("receiving topic from NATS fails"))
		_, js := s.Client()
		waitForAcks(t, js, "topic", "handler")
		s.Stop()
	}
}

// A network that passes nothing on, and does not say so, is found out.
func TestASubscriptionNoticesSilence(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	url, gate := newGate(t, s.URL)
	log, logger := testtransport.NewLogged(t)
	pub := testtransport.Publisher(t, newTransport(t, nats.Config{URL: s.URL}))
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, newTransport(t, nats.Config{URL: url, Logger: logger, AckWait: 2 * time.Second}), "handler"), "topic")
	require.NoError(t, pub.Publish("topic", testtransport.Message(t, "before")))
	testkit.Receive(t, messages).Ack()

	gate.Lock()
	require.NoError(t, pub.Publish("topic", testtransport.Message(t, "meanwhile")))
	require.Eventually(t, func() bool { return log.Count("receiving topic from NATS fails") == 1 }, patience, time.Millisecond)
	gate.Unlock()
	require.Equal(t, "meanwhile", string(testkit.Receive(t, messages).Payload))
	require.Eventually(t, func() bool { return log.Count("receiving topic from NATS works again") == 1 }, patience, time.Millisecond)
}

// newGate returns another URL of the server, and what holds up all that goes
// this way while it is locked.
func newGate(t *testing.T, server string) (url string, gate *sync.RWMutex) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gate = &sync.RWMutex{}
	var passing sync.WaitGroup
	pass := func(from, to net.Conn) {
		defer to.Close()
		buffer := make([]byte, 1<<16)
		for {
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			gate.RLock()
			_, err = to.Write(buffer[:n])
			gate.RUnlock()
			if err != nil {
				return
			}
		}
	}
	passing.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", strings.TrimPrefix(server, "nats://"))
			if err != nil {
				client.Close()
				continue
			}
			passing.Go(func() { pass(client, upstream) })
			passing.Go(func() { pass(upstream, client) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		passing.Wait()
	})
	return "nats://" + listener.Addr().String(), gate
}

// A consumer or a stream that is deleted is made testtransport.Again(), and handlers go on.
func TestASubscriptionOutlivesItsConsumerAndItsStream(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, js := s.Client()
	transport := newTransport(t, nats.Config{URL: s.URL})
	pub := testtransport.Publisher(t, transport)
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	publish := func(payload string) {
		t.Helper()
		require.Eventually(t, func() bool {
			return pub.Publish("topic", message.NewMessage(watermill.NewUUID(), []byte(payload))) == nil
		}, patience, time.Millisecond)
		for {
			msg := testkit.Receive(t, messages)
			msg.Ack()
			if string(msg.Payload) == payload {
				return
			}
		}
	}
	publish("one")
	require.NoError(t, js.DeleteConsumer(t.Context(), "topic", "handler"))
	publish("two")
	require.NoError(t, js.DeleteStream(t.Context(), "topic"))
	publish("three")
}

// A message of a program that knows nothing of Watermill has an id that says
// where it is, the same whenever it comes.
func TestAForeignMessageHasAnID(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	conn, js := s.Client()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	require.NoError(t, err)
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, newTransport(t, nats.Config{URL: s.URL}), "handler"), "orders.created")

	_, err = js.Publish(t.Context(), "orders.created", []byte("plain"))
	require.NoError(t, err)
	_, err = js.PublishMsg(t.Context(), &natsio.Msg{Subject: "orders.created", Header: natsio.Header{"Twice": {"a", "b"}, "Reprise-Metadata": {"no JSON"}}})
	require.NoError(t, err)
	raw(t, conn, "orders.created", "NATS/1.0\r\nno header at all\r\n\r\n", "unreadable headers")

	want := map[string]*message.Message{
		"ORDERS/1": {Payload: []byte("plain"), Metadata: message.Metadata{}},
		"ORDERS/2": {Payload: []byte{}, Metadata: message.Metadata{"Twice": "a, b", "Reprise-Metadata": "no JSON"}},
		"ORDERS/3": {Payload: []byte("unreadable headers"), Metadata: message.Metadata{}},
	}
	for _, end := range []func(*message.Message) bool{(*message.Message).Nack, (*message.Message).Ack} {
		came := map[string]*message.Message{}
		for range want {
			msg := testkit.Receive(t, messages)
			require.Contains(t, want, msg.UUID)
			require.Equal(t, string(want[msg.UUID].Payload), string(msg.Payload))
			require.Equal(t, want[msg.UUID].Metadata, msg.Metadata)
			came[msg.UUID] = msg
		}
		require.Len(t, came, len(want))
		for _, msg := range came {
			end(msg)
		}
	}
	waitForAcks(t, js, "ORDERS", consumerNames(t, js, "ORDERS")[0])
}

// A stream of somebody else's is used as it is, and a handler may have several
// of its topics.
func TestAStreamThatExistsIsUsed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, js := s.Client()
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 100, Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	for _, config := range []nats.Config{{URL: s.URL}, {URL: s.URL, NoProvision: true}, {URL: s.URL, Stream: "ORDERS"}} {
		transport := newTransport(t, config)
		pub, sub := testtransport.Publisher(t, transport), testtransport.Subscriber(t, transport, "handler")
		created, paid := testtransport.Subscribe(t, sub, "orders.created"), testtransport.Subscribe(t, sub, "orders.paid")
		require.NoError(t, pub.Publish("orders.created", testtransport.Message(t, "created")))
		require.NoError(t, pub.Publish("orders.paid", testtransport.Message(t, "paid")))
		for payload, messages := range map[string]<-chan *message.Message{"created": created, "paid": paid} {
			msg := testkit.Receive(t, messages)
			require.Equal(t, payload, string(msg.Payload))
			msg.Ack()
		}
		for _, name := range consumerNames(t, js, "ORDERS") {
			require.Regexp(t, `^handler_orders_(created|paid)-[0-9a-f]{10}$`, name)
			waitForAcks(t, js, "ORDERS", name)
		}
		require.NoError(t, sub.Close())
	}
	require.Len(t, consumerNames(t, js, "ORDERS"), 2)
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 100, info.Config.MaxMsgs)
	account, err := js.AccountInfo(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, account.Streams)
}

// The consumer that is there is used as it is, but for an AckWait that is asked
// for; one that gets something else is not.
func TestAConsumerThatExistsIsUsed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, js := s.Client()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "topic", Subjects: []string{"topic", "other"}})
	require.NoError(t, err)
	_, err = js.CreateConsumer(t.Context(), "topic", jetstream.ConsumerConfig{Durable: "handler", FilterSubject: "topic", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 7 * time.Second, MaxAckPending: 77})
	require.NoError(t, err)
	for wait, want := range map[time.Duration]time.Duration{0: 7 * time.Second, 9 * time.Second: 9 * time.Second} {
		transport := newTransport(t, nats.Config{URL: s.URL, AckWait: wait})
		require.NoError(t, testtransport.Publisher(t, transport).Publish("topic", testtransport.Message(t, "x")))
		sub := testtransport.Subscriber(t, transport, "handler")
		testkit.Receive(t, testtransport.Subscribe(t, sub, "topic")).Ack()
		require.NoError(t, sub.Close())
		consumer, err := js.Consumer(t.Context(), "topic", "handler")
		require.NoError(t, err)
		require.Equal(t, 77, consumer.CachedInfo().Config.MaxAckPending)
		if wait != 0 {
			require.Equal(t, want, consumer.CachedInfo().Config.AckWait)
		}
	}
	log, logger := testtransport.NewLogged(t)
	_, err = js.CreateConsumer(t.Context(), "topic", jetstream.ConsumerConfig{Durable: "taken", FilterSubject: "other", AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(t, err)
	testtransport.Subscribe(t, testtransport.Subscriber(t, newTransport(t, nats.Config{URL: s.URL, Logger: logger}), "taken"), "topic")
	require.Eventually(t, func() bool { return log.Count("receiving topic from NATS fails") == 1 }, patience, time.Millisecond)
}

// raw publishes headers that no client would.
func raw(t *testing.T, conn *natsio.Conn, subject, headers, payload string) {
	t.Helper()
	inbox, err := conn.SubscribeSync(conn.NewInbox())
	require.NoError(t, err)
	require.NoError(t, conn.Flush())
	c, err := net.Dial("tcp", conn.ConnectedAddr())
	require.NoError(t, err)
	defer c.Close()
	_, err = fmt.Fprintf(c, "CONNECT {\"headers\":true,\"verbose\":false,\"no_responders\":true}\r\nHPUB %s %s %d %d\r\n%s%s\r\n",
		subject, inbox.Subject, len(headers), len(headers)+len(payload), headers, payload)
	require.NoError(t, err)
	_, err = inbox.NextMsg(patience)
	require.NoError(t, err, "the server's answer")
}

func consumerNames(t *testing.T, js jetstream.JetStream, stream string) (names []string) {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	list := s.ConsumerNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	require.NoError(t, list.Err())
	return names
}

func waitForConsumer(t *testing.T, js jetstream.JetStream, stream, name string) (consumer jetstream.Consumer) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		consumer, err = js.Consumer(t.Context(), stream, name)
		return err == nil
	}, patience, time.Millisecond)
	return consumer
}

// waitForAcks waits until the consumer has acknowledged all there is.
func waitForAcks(t *testing.T, js jetstream.JetStream, stream, name string) {
	t.Helper()
	consumer := waitForConsumer(t, js, stream, name)
	var info *jetstream.ConsumerInfo
	require.Eventually(t, func() bool {
		var err error
		info, err = consumer.Info(t.Context())
		return err == nil && info.NumAckPending == 0 && info.NumPending == 0
	}, patience, time.Millisecond, "%+v", info)
}
