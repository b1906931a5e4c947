package nats_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	natsserver "github.com/nats-io/nats-server/v2/server"
	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/internal/testtransport"
	"github.com/reprise-bus/reprise/pubsub/nats"
)

func TestPublishReturnsWhenTheMessageIsStored(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	pub := testtransport.Publisher(t, newTransport(t, nats.Config{URL: s.URL}))
	require.NoError(t, pub.Publish("orders.created", testtransport.Message(t, "one"), testtransport.Message(t, "two")))

	_, js := s.Client()
	name, err := js.StreamNameBySubject(t.Context(), "orders.created")
	require.NoError(t, err)
	require.Regexp(t, `^orders_created-[0-9a-f]{10}$`, name)
	stream, err := js.Stream(t.Context(), name)
	require.NoError(t, err)
	info := stream.CachedInfo()
	require.EqualValues(t, 2, info.State.Msgs)
	require.Equal(t, []string{"orders.created"}, info.Config.Subjects)
	require.Equal(t, jetstream.LimitsPolicy, info.Config.Retention)
	require.Equal(t, jetstream.FileStorage, info.Config.Storage)
}

// What is published testtransport.Again(), after an answer was lost, is there once; another
// payload under the same UUID, or another topic, is another event.
func TestAMessagePublishedAgainIsStoredOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, js := s.Client()
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ALL", Subjects: []string{"a", "b"}})
	require.NoError(t, err)
	pub := testtransport.Publisher(t, newTransport(t, nats.Config{URL: s.URL, Stream: "ALL"}))
	msg := testtransport.Message(t, "x")
	other := message.NewMessage(msg.UUID, []byte("y"))
	require.NoError(t, pub.Publish("a", msg, msg, other))
	require.NoError(t, pub.Publish("b", msg, msg))
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, info.State.Msgs)
}

// A payload, a UUID and metadata come back as they were, whatever they are.
func TestAMessageComesBackAsItWas(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	transport := newTransport(t, nats.Config{URL: s.URL})
	pub := testtransport.Publisher(t, transport)
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	requireBack := func(msg *message.Message) {
		require.NoError(t, pub.Publish("topic", msg))
		got := testkit.Receive(t, messages)
		got.Ack()
		require.Equal(t, msg.UUID, got.UUID)
		require.Equal(t, msg.Metadata, got.Metadata)
		require.Equal(t, string(msg.Payload), string(got.Payload))
	}
	msg := message.NewMessage("id\nof two lines ", []byte("\x00\xff"))
	msg.Metadata = message.Metadata{
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"key":         "Größe ✓",
		"Key":         "another",
		"two words":   "x",
		"colon:":      "x",
		"":            "x",
		"empty":       "",
		"lines":       "one\r\ntwo",
		"blank":       " x\t",
		"Status":      "409",
		"Description": "Consumer Deleted",
		"nats-ttl":    "1s",
		"Nats-Rollup": "all",
	}
	requireBack(msg)
	empty := message.NewMessage(watermill.NewUUID(), nil)
	empty.Metadata = msg.Metadata
	requireBack(empty)
	rapid.Check(t, func(rt *rapid.T) {
		msg := message.NewMessage(watermill.NewUUID(), rapid.SliceOf(rapid.Byte()).Draw(rt, "payload"))
		msg.Metadata = rapid.MapOfN(rapid.String(), rapid.String(), 0, 8).Draw(rt, "metadata")
		requireBack(msg)
	})
}

// Programs with watermill-nats get our messages, and we get theirs.
func TestWatermillNatsIsUnderstood(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	transport := newTransport(t, nats.Config{URL: s.URL})
	msg := testtransport.Message(t, "ours")
	msg.Metadata.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	require.NoError(t, testtransport.Publisher(t, transport).Publish("topic", msg))

	stock, err := wmnats.NewSubscriber(wmnats.SubscriberConfig{URL: s.URL, JetStream: wmnats.JetStreamConfig{
		DurablePrefix: "stock", SubscribeOptions: []natsio.SubOpt{natsio.DeliverAll(), natsio.AckExplicit()},
	}}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stock.Close()) })
	got := testkit.Receive(t, testtransport.Subscribe(t, stock, "topic"))
	got.Ack()
	require.Equal(t, msg.UUID, got.UUID)
	require.Equal(t, msg.Metadata, got.Metadata)

	theirs, err := wmnats.NewPublisher(wmnats.PublisherConfig{URL: s.URL, JetStream: wmnats.JetStreamConfig{TrackMsgId: true}}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, theirs.Close()) })
	msg = testtransport.Message(t, "theirs")
	msg.Metadata.Set("a", "b")
	require.NoError(t, theirs.Publish("topic", msg))
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	require.Equal(t, "ours", string(testkit.Receive(t, messages).Payload))
	got = testkit.Receive(t, messages)
	require.Equal(t, msg.UUID, got.UUID)
	require.Equal(t, msg.Metadata, got.Metadata)
}

func TestWhatIsRefusedAndWhatIsNot(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *natsserver.Options) { o.MaxPayload = 256 << 10 })
	_, js := s.Client()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "SMALL", Subjects: []string{"small"}, MaxMsgSize: 1000})
	require.NoError(t, err)
	transport := newTransport(t, nats.Config{URL: s.URL})
	pub := testtransport.Publisher(t, transport)

	require.NoError(t, pub.Publish("topic", testtransport.Message(t, "x")))
	refused := func(topic string, msg *message.Message) {
		t.Helper()
		err := pub.Publish(topic, msg)
		require.Error(t, err)
		require.True(t, transport.Refused(err), "%v", err)
	}
	refused("topic", testtransport.Message(t, strings.Repeat("x", 256<<10)))
	refused("small", testtransport.Message(t, strings.Repeat("x", 1000)))
	large := testtransport.Message(t, "x")
	large.Metadata.Set("large", strings.Repeat("x", 70_000))
	refused("topic", large)
	for _, topic := range []string{"", "two words", "a..b", ".a", "a.", "*", "a.*", "a.>", "$JS.API.INFO", "a\r\nb"} {
		refused(topic, testtransport.Message(t, "x"))
		_, err := testtransport.Subscriber(t, transport, "handler").Subscribe(t.Context(), topic)
		require.ErrorContains(t, err, "want a subject")
	}

	require.False(t, transport.Refused(nil))
	without := newServer(t, func(o *natsserver.Options) { o.JetStream = false })
	for name, config := range map[string]nats.Config{
		"no responders":                         {URL: without.URL},
		"no stream has the subject \"nowhere\"": {URL: s.URL, NoProvision: true},
		"no response from stream":               {URL: s.URL, Stream: "GONE"},
		"expected stream does not match":        {URL: s.URL, Stream: "OTHER"},
	} {
		topic := "nowhere"
		if config.Stream == "OTHER" {
			topic = "small"
		}
		err := testtransport.Publisher(t, newTransport(t, config)).Publish(topic, testtransport.Message(t, "x"))
		require.ErrorContains(t, err, name)
		require.False(t, transport.Refused(err), "%v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	msg := testtransport.Message(t, "x")
	msg.SetContext(cancelled)
	err = pub.Publish("topic", msg)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, transport.Refused(err))
}

// The caller has an outbox: it wants to know soon.
func TestAPublishFailsSoonWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	transport := newTransport(t, nats.Config{URL: s.URL})
	pub := testtransport.Publisher(t, transport)
	require.NoError(t, pub.Publish("topic", testtransport.Message(t, "before")))

	s.Stop()
	for range 10 {
		began := time.Now()
		err := pub.Publish("topic", message.NewMessage(watermill.NewUUID(), nil))
		require.Error(t, err)
		require.False(t, transport.Refused(err), "%v", err)
		require.Less(t, time.Since(began), patience/2)
	}
	_, err := transport.Publisher()
	require.ErrorContains(t, err, "connect to NATS")

	s.Start()
	require.Eventually(t, func() bool {
		return pub.Publish("topic", message.NewMessage(watermill.NewUUID(), []byte("after"))) == nil
	}, patience, 10*time.Millisecond)
	messages := testtransport.Subscribe(t, testtransport.Subscriber(t, transport, "handler"), "topic")
	require.Equal(t, "before", string(testkit.Receive(t, messages).Payload))
	require.Equal(t, "after", string(testkit.Receive(t, messages).Payload), "nothing was kept back")
}

// Somebody takes the message, and never says that it is stored.
func TestAPublishThatIsNotAnsweredFails(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	conn, _ := s.Client()
	_, err := conn.SubscribeSync("topic")
	require.NoError(t, err)
	require.NoError(t, conn.Flush())
	transport := newTransport(t, nats.Config{URL: s.URL, Stream: "GONE"})
	began := time.Now()
	err = testtransport.Publisher(t, transport).Publish("topic", message.NewMessage(watermill.NewUUID(), nil))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, transport.Refused(err))
	require.Less(t, time.Since(began), patience/2)
}

// A stream that is deleted is made again by the next publish but one.
func TestAStreamThatIsGoneIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, js := s.Client()
	pub := testtransport.Publisher(t, newTransport(t, nats.Config{URL: s.URL}))
	require.NoError(t, pub.Publish("topic", testtransport.Message(t, "x")))
	require.NoError(t, js.DeleteStream(t.Context(), "topic"))
	err := pub.Publish("topic", testtransport.Message(t, "x"))
	require.ErrorIs(t, err, jetstream.ErrNoStreamResponse)
	require.False(t, nats.Refused(err))
	require.NoError(t, pub.Publish("topic", testtransport.Message(t, "x")))
}

func TestWhoConnectsIsSaid(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *natsserver.Options) { o.Username, o.Password = "maria", "p@ss,w/rd" })
	address := strings.TrimPrefix(s.URL, "nats://")
	u, err := url.Parse("nats://maria:p%40ss%2Cw%2Frd@" + address + "," + address + "?name=orders")
	require.NoError(t, err)
	config, err := nats.Parse(u)
	require.NoError(t, err)
	require.NoError(t, testtransport.Publisher(t, newTransport(t, config)).Publish("topic", testtransport.Message(t, "x")))

	_, err = newTransport(t, nats.Config{URL: s.URL}).Publisher()
	require.ErrorContains(t, err, "Authorization Violation")

	web := httptest.NewTLSServer(nil) // for its certificate
	t.Cleanup(web.Close)
	s = newServer(t, func(o *natsserver.Options) {
		o.TLS, o.TLSConfig = true, &tls.Config{Certificates: web.TLS.Certificates}
	})
	_, err = newTransport(t, nats.Config{URL: s.URL}).Publisher()
	require.ErrorContains(t, err, "certificate")
	trusted := x509.NewCertPool()
	trusted.AddCert(web.Certificate())
	require.NoError(t, testtransport.Publisher(t, newTransport(t, nats.Config{URL: s.URL, TLS: &tls.Config{RootCAs: trusted}})).Publish("topic", testtransport.Message(t, "x")))

	s = newServer(t, func(o *natsserver.Options) { o.Authorization = "token" })
	require.NoError(t, testtransport.Publisher(t, newTransport(t, nats.Config{URL: s.URL, Token: "token"})).Publish("topic", testtransport.Message(t, "x")))
}
