// Package kafka carries events over Apache Kafka, and over servers that speak its
// protocol.
//
// A topic is a Kafka topic of the same name. A missing topic is created when it is first
// used, with the broker's default number of partitions, if the broker allows that.
// Otherwise subscribers wait for the topic. Added partitions are noticed within 30 s.
//
// A handler is a consumer group, named GroupPrefix and the handler's name. Processes that
// serve the handler share the partitions. A new handler gets everything that the topic
// still has.
//
// An event with a key goes to the partition that Kafka's Java client chooses for the key.
// An event without a key goes to any partition. A partition keeps the order in which
// events were published; a handler gets many at once.
//
// Publish returns when all in-sync replicas have the message. If a broker is gone,
// Publish returns an error within 2 or 3 s.
//
// Headers are those of watermill-kafka: the metadata, and the UUID in
// _watermill_message_uuid. A message of another producer, without a UUID, gets an id made
// of its topic, partition and offset, such as "orders/3/1742", and Kafka's key as its
// key. Of several headers with one name the last counts. A message without a value, a
// tombstone, has an empty payload.
package kafka

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/internal/brief"
	"github.com/reprise-bus/reprise/pubsub"
)

// New returns Kafka as a transport. It does not connect. The publisher connects at its
// first publish. A subscriber connects in the background after Subscribe, until that
// works.
func New(config Config) (*pubsub.Transport, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	config.Logger = brief.Logger(config.Logger)
	return &pubsub.Transport{
		Name:       "kafka",
		Publisher:  func() (message.Publisher, error) { return newPublisher(config) },
		Subscriber: func(handler string) (message.Subscriber, error) { return newSubscriber(config, handler), nil },
		Topic:      checkTopic,
		Refused:    Refused,
	}, nil
}

// Refused reports whether an error of the publisher is about the message or its topic's
// name and will not go away: a message that is too large, reserved metadata, an invalid
// topic name, or a message that the topic's rules forbid. A missing topic or permission
// is not such an error, since it can be added.
func Refused(err error) bool {
	var reserved reservedError
	var configuration sarama.ConfigurationError
	return errors.As(err, &reserved) ||
		errors.As(err, &configuration) || // about one message larger than Producer.MaxMessageBytes
		errors.Is(err, sarama.ErrMessageSizeTooLarge) ||
		errors.Is(err, sarama.ErrInvalidTopic) ||
		errors.Is(err, sarama.ErrInvalidRecord)
}
