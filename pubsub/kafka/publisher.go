package kafka

import (
	"errors"
	"fmt"
	"sync"

	"github.com/IBM/sarama"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

// publisher is watermill-kafka's publisher. Messages published at once go to a partition
// in one batch, and the broker refuses a batch as a whole. A message that was refused as
// too large is therefore sent again alone.
type publisher struct {
	config   Config
	together *watermillkafka.Publisher

	mu     sync.Mutex
	closed bool
	alone  *watermillkafka.Publisher // made when first needed
}

func newPublisher(config Config) (*publisher, error) {
	together, err := connect(config.Brokers, config.producer())
	if err != nil {
		return nil, err
	}
	return &publisher{config: config, together: together}, nil
}

func connect(brokers []string, config *sarama.Config) (*watermillkafka.Publisher, error) {
	return watermillkafka.NewPublisher(watermillkafka.PublisherConfig{
		Brokers: brokers, Marshaler: marshaler{}, OverwriteSaramaConfig: config,
	}, nil)
}

func (p *publisher) Publish(topic string, messages ...*message.Message) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	for _, msg := range messages {
		err := p.together.Publish(topic, msg)
		if errors.Is(err, sarama.ErrMessageSizeTooLarge) {
			err = p.publishAlone(topic, msg)
		}
		if err != nil {
			return fmt.Errorf("kafka: topic %q: %w", topic, err)
		}
	}
	return nil
}

func (p *publisher) publishAlone(topic string, msg *message.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("the publisher is closed: use a new one")
	}
	if p.alone == nil {
		config := p.config.producer()
		config.Producer.Flush.MaxMessages = 1
		var err error
		if p.alone, err = connect(p.config.Brokers, config); err != nil {
			return err
		}
	}
	return p.alone.Publish(topic, msg)
}

// Close returns when all publishes under way have been answered.
func (p *publisher) Close() error {
	err := p.together.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.alone != nil {
		err = errors.Join(err, p.alone.Close())
	}
	return err
}
