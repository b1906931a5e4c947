package pubsub_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// transport is one that says when a message was acknowledged: Publish returns
// then.
func transport(t *testing.T) *gochannel.GoChannel {
	g := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	return g
}

func inbox(t *testing.T, ps *pubsub.PubSub, inner message.Subscriber, policy handlers.Policy, config pubsub.InboxConfig) <-chan *message.Message {
	t.Helper()
	in, err := ps.Inbox(inner, "handler", policy, config)
	require.NoError(t, err)
	messages, err := in.Subscribe(t.Context(), "topic")
	require.NoError(t, err)
	return messages
}

// A message is acknowledged when it is recorded, whatever its handler does.
func TestAnInboxAcknowledgesWhatIsRecorded(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		g := transport(t)
		messages := inbox(t, newPubSub(t, st), g, again, pubsub.InboxConfig{})

		first, second := newMessage("first"), newMessage("second")
		first.Metadata.Set(store.KeyMetadata, "ada")
		require.NoError(t, g.Publish("topic", first, second))
		hangs := testkit.Receive(t, messages)
		require.Equal(t, "first", string(hangs.Payload))
		require.Equal(t, first.UUID, hangs.UUID)
		other := testkit.Receive(t, messages)
		other.Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)

		event, err := st.Event(t.Context(), "topic", first.UUID)
		require.NoError(t, err)
		require.Equal(t, "gochannel.GoChannel", event.Source)
		require.Equal(t, "ada", event.Key)
		hangs.Nack()
		retried := testkit.Receive(t, messages)
		require.Equal(t, first.UUID, retried.UUID, "it comes from the record")
		retried.Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 2)
	})
}

func TestAnInboxRecognisesWhatIsDeliveredAgain(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		g := transport(t)
		messages := inbox(t, newPubSub(t, st), g, again, pubsub.InboxConfig{})
		msg := newMessage("x")
		for range 3 {
			require.NoError(t, g.Publish("topic", msg.Copy()))
		}
		testkit.Receive(t, messages).Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
		require.NoError(t, g.Publish("topic", msg.Copy(), msg.Copy()))
		testkit.RequireCount(t, st, "handler_runs", 1)
	})
}

// What a database does not keep, or would take for something else, is kept
// under an id made of it, and recognised by that.
func TestAnInboxKeepsWhateverComes(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		g := transport(t)
		messages := inbox(t, newPubSub(t, st), g, again, pubsub.InboxConfig{
			Source:   "kafka",
			Identify: func(msg *message.Message) string { return "from-" + msg.Metadata.Get("offset") },
		})
		known := newMessage("one thing")
		another := message.NewMessage(known.UUID, []byte("another thing"))
		huge := message.NewMessage(strings.Repeat("x", 1000), []byte("\xff\x00"))
		huge.Metadata.Set(store.KeyMetadata, strings.Repeat("k", 1000))
		huge.Metadata.Set("binary\xff", "\xff")
		nameless := message.NewMessage("", []byte(`{"n": 1}`))
		nameless.Metadata.Set("offset", "17")
		all := []*message.Message{known, another, huge, nameless}
		for range 2 {
			for _, msg := range all {
				require.NoError(t, g.Publish("topic", msg.Copy()))
			}
		}
		payloads := map[string]string{}
		for range all {
			msg := testkit.Receive(t, messages)
			payloads[string(msg.Payload)] = msg.UUID
			msg.Ack()
		}
		testkit.WaitForStatus(t, st, "handler", store.Success, len(all))
		testkit.RequireCount(t, st, "events", len(all))
		require.Len(t, payloads, len(all))
		require.Equal(t, known.UUID, payloads["one thing"])
		require.Equal(t, "from-17", payloads[`{"n": 1}`])
	})
}

// Two handlers, each with an Inbox of its own on the topic, share the event.
func TestInboxesOfSeveralHandlersKeepOneEvent(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		g := transport(t)
		ps := newPubSub(t, st)
		var all []<-chan *message.Message
		for _, handler := range []string{"one", "another"} {
			in, err := ps.Inbox(g, handler, again, pubsub.InboxConfig{})
			require.NoError(t, err)
			messages, err := in.Subscribe(t.Context(), "topic")
			require.NoError(t, err)
			all = append(all, messages)
		}
		require.NoError(t, g.Publish("topic", newMessage("x")))
		for _, messages := range all {
			testkit.Receive(t, messages).Ack()
		}
		testkit.WaitForStatus(t, st, "one", store.Success, 1)
		testkit.WaitForStatus(t, st, "another", store.Success, 1)
		testkit.RequireCount(t, st, "events", 1)
	})
}

// What failed is replayed to the handler, and what is published here comes to
// it as well.
func TestAReplayReachesTheHandlerOfAnInbox(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		g := transport(t)
		ps := newPubSub(t, st)
		messages := inbox(t, ps, g, handlers.Policy{Attempts: 1, Cycles: 1}, pubsub.InboxConfig{})
		require.NoError(t, g.Publish("topic", newMessage("x")))
		testkit.Receive(t, messages).Nack()
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		_, err := replay.All(t.Context(), st, store.Filter{Handler: "handler"}, replay.Request{})
		require.NoError(t, err)
		testkit.Receive(t, messages).Ack()
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)

		require.NoError(t, ps.Publisher().Publish("topic", newMessage("published here")))
		require.Equal(t, "published here", string(testkit.Receive(t, messages).Payload))
	})
}

// While the database is away nothing is acknowledged, and nothing is lost.
func TestAnInboxWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	server := testdb.NewServer(t)
	st := testkit.OpenStore(t, server.URL)
	g := transport(t)
	messages := inbox(t, newPubSub(t, st), g, again, pubsub.InboxConfig{})
	require.NoError(t, g.Publish("topic", newMessage("before")))
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 1)

	server.Crash()
	published := make(chan error, 1)
	go func() { published <- g.Publish("topic", newMessage("meanwhile")) }()
	require.Eventually(t, func() bool { return st.DB().PingContext(t.Context()) != nil }, patience, time.Millisecond)
	select {
	case err := <-published:
		t.Fatalf("it was acknowledged without a record: %v", err)
	default:
	}
	server.Start()
	require.NoError(t, testkit.Receive(t, published))
	msg := testkit.Receive(t, messages)
	require.Equal(t, "meanwhile", string(msg.Payload))
	msg.Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 2)
}

func TestAnInboxSaysWhatIsWrong(t *testing.T) {
	ps := newPubSub(t, testkit.OpenStore(t, testdb.SQLite(t)))
	_, err := ps.Inbox(nil, "handler", again, pubsub.InboxConfig{})
	require.ErrorContains(t, err, "the subscriber is nil")
	_, err = ps.Inbox(transport(t), "handler", again, pubsub.InboxConfig{Source: "publish"})
	require.ErrorContains(t, err, `field Source "publish"`)
}

// On a router that was there before: two lines for each handler, and failures
// are tried again by its policy.
func TestAnInboxOnARouter(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		g := transport(t)
		in, err := newPubSub(t, st).Inbox(g, "handler", again, pubsub.InboxConfig{Recorded: true})
		require.NoError(t, err)
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		router.AddMiddleware(middleware.Record(st))
		attempts := make(chan string, 2)
		failed := false // one call at a time: there is one message
		router.AddConsumerHandler("handler", "topic", in, func(msg *message.Message) error {
			attempts <- msg.UUID
			if !failed {
				failed = true
				return errors.New("not yet")
			}
			return nil
		})
		ended := make(chan error, 1)
		go func() { ended <- router.Run(t.Context()) }()
		<-router.Running()

		msg := newMessage("x")
		require.NoError(t, g.Publish("topic", msg), "it is acknowledged, failed or not")
		require.Equal(t, msg.UUID, testkit.Receive(t, attempts))
		require.Equal(t, msg.UUID, testkit.Receive(t, attempts))
		testkit.WaitForStatus(t, st, "handler", store.Success, 1)
		recorded, err := st.Attempts(t.Context(), only(t, st).ID)
		require.NoError(t, err)
		require.Equal(t, "not yet", recorded[0].Message)
		require.NoError(t, router.Close())
		require.NoError(t, testkit.Receive(t, ended))
	})
}

// The stock subscriber of watermill-sql is a transport like any other. It sends the next
// message when the one before is acknowledged, which is when the record has it.
func TestAnInboxAroundWatermillSQL(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t)
	db := testdb.Open(t, url)
	pub, err := wsql.NewPublisher(db, wsql.PublisherConfig{SchemaAdapter: wsql.DefaultPostgreSQLSchema{}, AutoInitializeSchema: true}, watermill.NopLogger{})
	require.NoError(t, err)
	sub, err := wsql.NewSubscriber(db, wsql.SubscriberConfig{
		ConsumerGroup: "handler", SchemaAdapter: wsql.DefaultPostgreSQLSchema{}, OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{},
		InitializeSchema: true, PollInterval: 10 * time.Millisecond,
	}, watermill.NopLogger{})
	require.NoError(t, err)
	st := testkit.OpenStore(t, url)
	messages := inbox(t, newPubSub(t, st), sub, again, pubsub.InboxConfig{})
	t.Cleanup(func() { require.NoError(t, sub.Close()) })

	first, second := newMessage(`{"n": 1}`), newMessage(`{"n": 2}`)
	require.NoError(t, pub.Publish("topic", first, second))
	hangs := testkit.Receive(t, messages)
	require.Equal(t, first.UUID, hangs.UUID)
	other := testkit.Receive(t, messages)
	require.Equal(t, second.UUID, other.UUID, "a handler that hangs holds up no other message")
	other.Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 1)
	hangs.Nack()
	retried := testkit.Receive(t, messages)
	require.Equal(t, first.UUID, retried.UUID)
	retried.Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 2)
	event, err := st.Event(t.Context(), "topic", first.UUID)
	require.NoError(t, err)
	require.Equal(t, "sql.Subscriber", event.Source)
}
