package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// subscriber is the subscriber of one handler. Unlike watermill-kafka's it has many
// messages of a partition under way at once, delivers messages that it cannot read, and
// does not wait for the broker. It is made for an Inbox, which acks a message once it is
// recorded.
//
// Acked messages are marked in the order of the partition, up to the first that is not
// acked. A nacked message is sent again.
type subscriber struct {
	config Config
	group  string

	open  context.Context // ends with Close
	stop  context.CancelFunc
	loops sync.WaitGroup // of the subscriptions
	mu    sync.Mutex     // serialises Subscribe and Close
}

var _ message.SubscribeInitializer = (*subscriber)(nil)

func newSubscriber(config Config, handler string) *subscriber {
	s := &subscriber{config: config, group: config.GroupPrefix + handler}
	s.open, s.stop = context.WithCancel(context.Background())
	return s
}

// Subscribe delivers the topic's messages for the handler until ctx ends or the
// subscriber is closed.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open.Err() != nil {
		return nil, errors.New("the subscriber is closed: use a new one")
	}
	config := s.config.consumer()
	links := newLinks(config)
	client, err := sarama.NewClient(s.config.Brokers, config)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	group, err := sarama.NewConsumerGroupFromClient(s.group, client)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("kafka: %w", err), client.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.open, cancel)
	sub := newSubscription(ctx, s, topic, links, client, group)
	s.loops.Go(func() {
		defer cancel()
		defer stop()
		sub.run()
	})
	return sub.out, nil
}

// SubscribeInitialize creates the topic, unless it exists or this application lacks the
// permission.
func (s *subscriber) SubscribeInitialize(topic string) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	config := s.config.consumer()
	config.Metadata.Full = true // or the controller is not found
	admin, err := sarama.NewClusterAdmin(s.config.Brokers, config)
	if err != nil {
		return fmt.Errorf("kafka: make topic %q: %w", topic, err)
	}
	err = admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: -1, ReplicationFactor: -1}, false)
	if slices.ContainsFunc([]error{
		sarama.ErrTopicAlreadyExists, sarama.ErrTopicAuthorizationFailed, sarama.ErrClusterAuthorizationFailed, sarama.ErrPolicyViolation,
	}, func(fine error) bool { return errors.Is(err, fine) }) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("kafka: make topic %q: %w", topic, err)
	}
	return errors.Join(err, admin.Close())
}

// Close ends the delivery and closes the channels. Delivered messages may be acked for 1
// s more.
func (s *subscriber) Close() error {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.loops.Wait()
	return nil
}
