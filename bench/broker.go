package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// A broker is the Kafka that all systems share, each on topics of its own.
type broker struct {
	addrs  []string
	client sarama.Client
	admin  sarama.ClusterAdmin
}

const partitions = 12 // of a topic

func connectKafka(addresses string) (*broker, error) {
	b := &broker{addrs: strings.Split(addresses, ",")}
	conf := sarama.NewConfig()
	conf.Producer.Return.Successes = true
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Partitioner = sarama.NewMurmur2Partitioner
	var err error
	if b.client, err = sarama.NewClient(b.addrs, conf); err != nil {
		return nil, fmt.Errorf("connect to Kafka: %w", err)
	}
	if b.admin, err = sarama.NewClusterAdminFromClient(b.client); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to Kafka: %w", err), b.client.Close())
	}
	if _, err := b.client.Coordinator("bench"); err != nil { // the first group that a broker has waits for it
		return nil, errors.Join(fmt.Errorf("connect to Kafka: %w", err), b.close())
	}
	return b, nil
}

// version is a guess, from what the broker says that it can do.
func (b *broker) version(ctx context.Context) string {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...))
	if err != nil {
		return "unknown version"
	}
	defer client.Close()
	can, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, client)
	if err != nil {
		return "unknown version"
	}
	return kversion.FromApiVersionsResponse(can).VersionGuess()
}

func (b *broker) close() error { return b.admin.Close() } // and the client with it

// groupPrefix stands before a handler's name in the name of its consumer group.
func groupPrefix(topic string) string { return topic + "-" }

// create makes a topic, and waits until it can be used.
func (b *broker) create(ctx context.Context, topic string) error {
	if err := b.admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1}, false); err != nil {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	for {
		described, err := b.admin.DescribeTopics([]string{topic})
		if err != nil {
			return fmt.Errorf("describe topic %s: %w", topic, err)
		}
		led := 0
		for _, p := range described[0].Partitions {
			if p.Err == sarama.ErrNoError && p.Leader >= 0 {
				led++
			}
		}
		if led == partitions {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// fill publishes n events on a topic, each under a key of its own, as watermill-kafka marshals
// them. All systems get what the same producer has made.
func (b *broker) fill(ctx context.Context, topic string, n int) error {
	producer, err := sarama.NewSyncProducerFromClient(b.client)
	if err != nil {
		return err
	}
	defer producer.Close()
	const step = 2000
	for first := 0; first < n; first += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		var batch []*sarama.ProducerMessage
		for seq := first; seq < min(first+step, n); seq++ {
			body, err := json.Marshal(newEvent(seq))
			if err != nil {
				return err
			}
			m, err := wkafka.DefaultMarshaler{}.Marshal(topic, message.NewMessage(uuid.Must(uuid.NewV7()).String(), body))
			if err != nil {
				return err
			}
			m.Key = sarama.StringEncoder(strconv.Itoa(seq))
			batch = append(batch, m)
		}
		if err := producer.SendMessages(batch); err != nil {
			return fmt.Errorf("fill topic %s: %w", topic, err)
		}
	}
	return nil
}

// count is how many events a topic has.
func (b *broker) count(topic string) (n int, err error) {
	if err := b.client.RefreshMetadata(topic); err != nil {
		return 0, err
	}
	ids, err := b.client.Partitions(topic)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		next, err := b.client.GetOffset(topic, id, sarama.OffsetNewest)
		if err != nil {
			return 0, err
		}
		n += int(next)
	}
	return n, nil
}

// drop removes a topic that create made. What the broker knows of its consumer groups it forgets
// by itself where that cannot be removed yet.
func (b *broker) drop(topic string) error {
	if groups, err := b.admin.ListConsumerGroups(); err == nil {
		for name := range groups {
			if strings.HasPrefix(name, groupPrefix(topic)) {
				_ = b.admin.DeleteConsumerGroup(name)
			}
		}
	}
	if err := b.admin.DeleteTopic(topic); err != nil {
		return fmt.Errorf("delete topic %s: %w", topic, err)
	}
	return nil
}
