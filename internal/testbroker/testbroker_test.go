package testbroker_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/reprise-bus/reprise/internal/testbroker"
)

func TestATopicIsTheTestsOwn(t *testing.T) {
	t.Parallel()
	one, another := testbroker.Topic(t, 2), testbroker.Topic(t, 1)
	require.NotEqual(t, one, another)
	testbroker.AddPartitions(t, testbroker.Kafka(t), one, 3)
	partitions := map[int32]bool{}
	client, err := kgo.NewClient(kgo.SeedBrokers(testbroker.Kafka(t)...), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	require.NoError(t, err)
	defer client.Close()
	for range 3 {
		record, err := client.ProduceSync(t.Context(), &kgo.Record{Topic: one}).First()
		require.NoError(t, err)
		partitions[record.Partition] = true
	}
	require.Len(t, partitions, 3)
}

func TestABrokerOfOnesOwn(t *testing.T) {
	for _, kind := range []string{"", "kfake"} {
		t.Run(kind, func(t *testing.T) {
			t.Setenv("REPRISE_TEST_KAFKA", kind)
			b := testbroker.OwnKafka(t, "auto.create.topics.enable=false")
			testbroker.CreateTopic(t, []string{b.Addr}, "topic", 1)
			client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(1))
			require.NoError(t, err)
			defer client.Close()
			for _, end := range []func(){b.Stop, b.Kill} {
				require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "topic"}).FirstErr())
				end()
				b.Start()
			}
			record, err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "topic"}).First()
			require.NoError(t, err)
			require.EqualValues(t, 2, record.Offset, "what was on it is there")
			require.Error(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "another"}).FirstErr())
		})
	}
}

func TestKafkaWithoutBrokersFails(t *testing.T) {
	t.Setenv("KAFKA_BROKERS", "")
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		testbroker.Kafka(f)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it neither failed nor returned")
	}
	require.Contains(t, f.message, "run it with `make test`")
}

// failing is a test that keeps why it failed to itself.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Fatal(args ...any) {
	f.message = args[0].(string)
	runtime.Goexit()
}
