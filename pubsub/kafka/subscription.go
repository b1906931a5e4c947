package kafka

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// subscription is one membership in a consumer group. It is told of its
// partitions as a sarama.ConsumerGroupHandler.
type subscription struct {
	ctx    context.Context // of the messages; its end is the subscription's
	topic  string
	client sarama.Client
	group  sarama.ConsumerGroup
	out    chan *message.Message
	config Config
	health outage

	session sarama.ConsumerGroupSession // the last one
	trouble atomic.Pointer[error]       // the last one, of any partition
}

// newSubscription returns one that has some messages ready, so that who records
// them together finds many.
func newSubscription(ctx context.Context, s *subscriber, topic string, client sarama.Client, group sarama.ConsumerGroup) *subscription {
	return &subscription{
		ctx: ctx, topic: topic, client: client, group: group, config: s.config,
		out:    make(chan *message.Message, 500),
		health: outage{what: "receiving " + topic + " as " + s.group, log: s.config.Logger},
	}
}

// run is a member of the group until the context ends, however often the broker
// goes away meanwhile.
func (s *subscription) run() {
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		for err := range s.group.Errors() { // it is tried again
			s.trouble.Store(&err)
			s.config.Logger.Debug("Kafka reports an error", "topic", s.topic, "error", err)
		}
	}()
	for pace := newBackoff(); s.ctx.Err() == nil; {
		began := time.Now()
		err := s.consume()
		s.health.report(s.ctx, err)
		if time.Since(began) > time.Minute {
			pace.Reset()
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(pace.NextBackOff()):
		}
	}
	s.leave()
	<-reported
	s.close()
}

// consume takes part in one session of the group, and says why it ended.
func (s *subscription) consume() error {
	s.session = nil
	s.trouble.Store(nil)
	joined := make(chan struct{})
	stop := context.AfterFunc(s.ctx, func() { s.hurry(joined) })
	err := s.group.Consume(s.ctx, []string{s.topic}, s)
	close(joined)
	stop()
	if err == nil && s.session != nil {
		err = context.Cause(s.session.Context())
	}
	if last := s.trouble.Load(); last != nil {
		err = errors.Join(err, *last)
	}
	if err == nil {
		err = errors.New("the session ended")
	}
	return err
}

// hurry cuts the connections when an ended session is not over within a while:
// joining a group takes as long as its other members do.
func (s *subscription) hurry(over <-chan struct{}) {
	select {
	case <-over:
	case <-time.After(lingering + 2*time.Second):
		_ = s.client.Close()
	}
}

func (s *subscription) leave() {
	if err := errors.Join(s.group.Close(), ignoreClosed(s.client.Close())); err != nil {
		s.config.Logger.Debug("Kafka reports an error", "topic", s.topic, "error", err)
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, sarama.ErrClosedClient) {
		return nil
	}
	return err
}

// close leaves to the group what was ready and nobody took.
func (s *subscription) close() {
	for {
		select {
		case <-s.out:
		default:
			close(s.out)
			return
		}
	}
}

// Setup is called when the session begins.
func (s *subscription) Setup(session sarama.ConsumerGroupSession) error {
	s.session = session
	s.health.report(s.ctx, nil)
	return nil
}

// Cleanup is called when it ends.
func (s *subscription) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim delivers a partition until it is another member's or the session
// is over.
func (s *subscription) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	p := &partition{subscription: s, session: session, claim: claim}
	p.run()
	return nil
}
