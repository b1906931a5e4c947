package kafka_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/kafka"
	"github.com/reprise-bus/reprise/store"
)

const patience = time.Minute

// again tries again for ever, and soon.
var again = handlers.Policy{Attempts: 1_000_000, Backoff: handlers.Backoff{Initial: 10 * time.Millisecond, Factor: 1, Jitter: -1}}

func newTransport(t testing.TB, config kafka.Config) *pubsub.Transport {
	t.Helper()
	if config.Brokers == nil {
		config.Brokers = testbroker.Kafka(t)
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	transport, err := kafka.New(config)
	require.NoError(t, err)
	require.NoError(t, transport.Validate())
	return transport
}

func newPublisher(t testing.TB, transport *pubsub.Transport) message.Publisher {
	t.Helper()
	pub, err := transport.Publisher()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func newSubscriber(t testing.TB, transport *pubsub.Transport, handler string) message.Subscriber {
	t.Helper()
	sub, err := transport.Subscriber(handler)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

func subscribe(t testing.TB, sub message.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	return messages
}

func openStore(t testing.TB, url string) *store.Store {
	t.Helper()
	db := testdb.Open(t, url)
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	st, err := store.New(t.Context(), db, "")
	require.NoError(t, err)
	return st
}

func newPubSub(t testing.TB, st *store.Store) *pubsub.PubSub {
	t.Helper()
	ps, err := pubsub.New(st, pubsub.Config{
		GracePeriod:  time.Second,
		PollInterval: 100 * time.Millisecond,
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ps.Close()) })
	return ps
}

func newInbox(t testing.TB, ps *pubsub.PubSub, transport *pubsub.Transport, handler string, policy handlers.Policy, recorded bool) *pubsub.Inbox {
	t.Helper()
	sub, err := transport.Subscriber(handler)
	require.NoError(t, err)
	in, err := ps.Inbox(sub, handler, policy, pubsub.InboxConfig{Source: transport.Name, Identify: transport.Identify, Recorded: recorded})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, in.Close()) })
	return in
}

func newMessage(payload string) *message.Message {
	return message.NewMessage(watermill.NewUUID(), []byte(payload))
}

func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v, open := <-from:
		require.True(t, open, "the channel is closed")
		return v
	case <-time.After(patience):
		t.Fatalf("nothing came within %v", patience)
		panic("unreachable")
	}
}

func waitForStatus(t testing.TB, st *store.Store, handler string, status store.Status, n int) {
	t.Helper()
	count := 0
	require.Eventually(t, func() bool {
		err := st.DB().GetContext(t.Context(), &count, `SELECT count(*) FROM `+table(st, "handler_runs")+` WHERE handler = $1 AND status = $2`, handler, string(status))
		return err == nil && count == n
	}, patience, 5*time.Millisecond, "%s runs are %s, want %d", handler, status, n)
}

func requireCount(t testing.TB, st *store.Store, name string, want int) {
	t.Helper()
	require.Equal(t, want, count(t, st, name), name)
}

func count(t testing.TB, st *store.Store, name string) (n int) {
	t.Helper()
	require.NoError(t, st.DB().GetContext(t.Context(), &n, `SELECT count(*) FROM `+table(st, name)))
	return n
}

func table(st *store.Store, name string) string {
	if st.DB().DriverName() == "postgres" {
		return "reprise." + name
	}
	return "reprise_" + name
}

// logged keeps what is logged, and passes it on.
type logged struct {
	slog.Handler

	mu       sync.Mutex
	messages []string
}

func newLogged(t testing.TB) (*logged, *slog.Logger) {
	l := &logged{Handler: slog.NewTextHandler(t.Output(), nil)}
	return l, slog.New(l)
}

func (l *logged) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, r.Message)
	return l.Handler.Handle(ctx, r)
}

// count is how many lines begin so.
func (l *logged) count(begin string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.messages {
		if strings.HasPrefix(m, begin) {
			n++
		}
	}
	return n
}

// newClient is a program that knows nothing of Reprise, on the brokers of
// KAFKA_BROKERS unless the options say where else.
func newClient(t testing.TB, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(testbroker.Kafka(t)...)}, options...)...)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

func produce(t testing.TB, client *kgo.Client, records ...*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, client.ProduceSync(ctx, records...).FirstErr())
}

// consume returns the next n records that the client gets.
func consume(t testing.TB, client *kgo.Client, n int) (records []*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(records) < n {
		fetches := client.PollRecords(ctx, n-len(records))
		require.NoError(t, ctx.Err(), "%d of %d records came", len(records), n)
		records = append(records, fetches.Records()...)
	}
	return records
}

// waitForCommits waits until the group's offsets of the topic add up to that.
func waitForCommits(t testing.TB, client *kgo.Client, group, topic string, partitions, want int) {
	t.Helper()
	sum := int64(0)
	require.Eventually(t, func() bool {
		sum = committed(t, client, group, topic, partitions)
		return sum == int64(want)
	}, patience, 20*time.Millisecond, "committed by %s: %d", group, &sum)
}

func committed(t testing.TB, client *kgo.Client, group, topic string, partitions int) (sum int64) {
	t.Helper()
	request := kmsg.NewPtrOffsetFetchRequest()
	wanted := kmsg.NewOffsetFetchRequestTopic()
	wanted.Topic = topic
	for p := range partitions {
		wanted.Partitions = append(wanted.Partitions, int32(p))
	}
	request.Group, request.Topics = group, append(request.Topics, wanted)
	response, err := request.RequestWith(t.Context(), client)
	if err != nil {
		return -1
	}
	for _, topic := range response.Topics {
		for _, p := range topic.Partitions {
			sum += max(p.Offset, 0)
		}
	}
	return sum
}

// waitForMembers waits until the group has so many, and is not rebalancing.
func waitForMembers(t testing.TB, client *kgo.Client, group string, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		request := kmsg.NewPtrDescribeGroupsRequest()
		request.Groups = append(request.Groups, group)
		response, err := request.RequestWith(t.Context(), client)
		return err == nil && len(response.Groups) == 1 && response.Groups[0].State == "Stable" && len(response.Groups[0].Members) == n
	}, patience, 20*time.Millisecond, "want %d members of %s", n, group)
}
