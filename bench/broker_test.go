package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/twmb/franz-go/pkg/kfake"
)

func TestATopicIsFilledOnAllPartitionsAndGone(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	b, err := connectKafka(strings.Join(cluster.ListenAddrs(), ","))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if err := b.create(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if err := b.fill(t.Context(), "orders", 3000); err != nil {
		t.Fatal(err)
	}
	if n, err := b.count("orders"); n != 3000 || err != nil {
		t.Errorf("the topic has %d events, %v", n, err)
	}

	consumer, err := sarama.NewConsumer(b.addrs, sarama.NewConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	for id := range int32(partitions) {
		p, err := consumer.ConsumePartition("orders", id, sarama.OffsetOldest)
		if err != nil {
			t.Fatal(err)
		}
		first := <-p.Messages()
		if m, err := (wkafka.DefaultMarshaler{}).Unmarshal(first); err != nil || m.UUID == "" || len(first.Key) == 0 {
			t.Errorf("partition %d: UUID %q, key %q, %v", id, m.UUID, first.Key, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}

	if err := b.drop("orders"); err != nil {
		t.Fatal(err)
	}
	if err := b.drop("orders"); !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		t.Errorf("dropped twice: %v", err)
	}
}
