// Package testbroker gives tests the brokers that they need.
package testbroker

import (
	"context"
	"crypto/rand"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka returns the addresses, each host:port, of the brokers of KAFKA_BROKERS.
// Topics and groups of other tests are on them. Without brokers the test fails;
// it is never skipped.
func Kafka(t testing.TB) []string {
	t.Helper()
	addrs := os.Getenv("KAFKA_BROKERS")
	if addrs == "" {
		t.Fatal("this test needs a Kafka broker: run it with `make test` or `go run ./internal/testkafka -- go test ./...`, or set KAFKA_BROKERS to host:port")
	}
	return strings.Split(addrs, ",")
}

// Topic creates a topic on the brokers of KAFKA_BROKERS and returns its name,
// which no other test has. It is deleted when the test and its subtests are over.
func Topic(t testing.TB, partitions int) string {
	t.Helper()
	addrs := Kafka(t)
	topic := Name("topic")
	CreateTopic(t, addrs, topic, partitions)
	t.Cleanup(func() {
		request := kmsg.NewPtrDeleteTopicsRequest()
		name := kmsg.NewDeleteTopicsRequestTopic()
		name.Topic = kmsg.StringPtr(topic)
		request.Topics, request.TopicNames = append(request.Topics, name), append(request.TopicNames, topic)
		if _, err := ask[*kmsg.DeleteTopicsResponse](addrs, request); err != nil {
			t.Errorf("delete test topic %s: %v", topic, err)
		}
	})
	return topic
}

// Name returns a name that no other test has, such as of a consumer group.
func Name(prefix string) string { return prefix + "-" + strings.ToLower(rand.Text()) }

// CreateTopic creates a topic on the brokers, and waits until they know it.
func CreateTopic(t testing.TB, addrs []string, topic string, partitions int) {
	t.Helper()
	request := kmsg.NewPtrCreateTopicsRequest()
	wanted := kmsg.NewCreateTopicsRequestTopic()
	wanted.Topic, wanted.NumPartitions, wanted.ReplicationFactor = topic, int32(partitions), 1
	request.Topics = append(request.Topics, wanted)
	response, err := ask[*kmsg.CreateTopicsResponse](addrs, request)
	if err == nil {
		err = kerr.ErrorForCode(response.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("create test topic %s: %v", topic, err)
	}
	waitUntilKnown(t, addrs, topic, partitions)
}

func waitUntilKnown(t testing.TB, addrs []string, topic string, partitions int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !known(t, addrs, topic, partitions); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the brokers do not know the %d partitions of test topic %s", partitions, topic)
		}
	}
}

// known says whether a broker names a leader of each partition.
func known(t testing.TB, addrs []string, topic string, partitions int) bool {
	t.Helper()
	request := kmsg.NewPtrMetadataRequest()
	wanted := kmsg.NewMetadataRequestTopic()
	wanted.Topic = kmsg.StringPtr(topic)
	request.Topics = append(request.Topics, wanted)
	response, err := ask[*kmsg.MetadataResponse](addrs, request)
	if err != nil {
		t.Fatalf("ask for test topic %s: %v", topic, err)
	}
	led := 0
	for _, p := range response.Topics[0].Partitions {
		if p.ErrorCode == 0 && p.Leader >= 0 {
			led++
		}
	}
	return response.Topics[0].ErrorCode == 0 && led == partitions
}

// AddPartitions gives a topic more partitions: so many in all.
func AddPartitions(t testing.TB, addrs []string, topic string, partitions int) {
	t.Helper()
	request := kmsg.NewPtrCreatePartitionsRequest()
	wanted := kmsg.NewCreatePartitionsRequestTopic()
	wanted.Topic, wanted.Count = topic, int32(partitions)
	request.Topics = append(request.Topics, wanted)
	response, err := ask[*kmsg.CreatePartitionsResponse](addrs, request)
	if err == nil {
		err = kerr.ErrorForCode(response.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("add partitions to test topic %s: %v", topic, err)
	}
	waitUntilKnown(t, addrs, topic, partitions)
}

// ask does not use the test's context, which is cancelled before cleanup.
func ask[T kmsg.Response](addrs []string, request kmsg.Request) (response T, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		return response, err
	}
	defer client.Close()
	answer, err := client.Request(ctx, request)
	if err != nil {
		return response, err
	}
	return answer.(T), nil
}
