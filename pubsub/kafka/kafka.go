// Package kafka carries events over Apache Kafka, and what speaks its protocol.
//
// A topic is a topic of the same name. One that does not exist is made when it
// is first used, with as many partitions as the broker gives it, where the
// broker allows that; else it is waited for. Partitions that are added are
// noticed within 30 seconds.
//
// A handler is a consumer group, named GroupPrefix and the handler's name.
// Processes that serve the handler share the partitions. A new handler gets what
// the topic still has.
//
// An event with a key goes to the partition that Kafka's Java client chooses for
// the key, and one without to any. A partition keeps the order in which events
// were published; a handler is given many at once.
//
// Publish returns when all replicas that are in sync have the message. A broker
// that is gone is reported within two or three seconds.
//
// Headers are those of watermill-kafka: the metadata, and the UUID in
// _watermill_message_uuid. A message of another producer, without a UUID, gets
// an id made of its topic, partition and offset, such as "orders/3/1742", and
// Kafka's key as its key. Of headers of one name the last counts. A message
// without a value, a tombstone, has an empty payload.
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

// New returns Kafka as a transport. It connects to nothing: the publisher does
// when it first publishes; a subscriber does when it is subscribed, in the
// background, until it works.
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

// Refused says of an error of the publisher that it is about the message or its
// topic's name, and will not go away: too large, metadata that is reserved, a
// name that no topic can have, a message that the topic's rules forbid. That
// there is no such topic, or no permission, is none: somebody may see to it.
func Refused(err error) bool {
	var reserved reservedError
	var configuration sarama.ConfigurationError
	return errors.As(err, &reserved) ||
		errors.As(err, &configuration) || // of one message: it is larger than Producer.MaxMessageBytes
		errors.Is(err, sarama.ErrMessageSizeTooLarge) ||
		errors.Is(err, sarama.ErrInvalidTopic) ||
		errors.Is(err, sarama.ErrInvalidRecord)
}
