package kafka_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/kafka"
)

const patience = time.Minute

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
