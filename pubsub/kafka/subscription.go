package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/internal/outage"
)

// subscription is one membership in a consumer group. It gets its partitions as a
// sarama.ConsumerGroupHandler.
type subscription struct {
	ctx    context.Context // parent of the messages' contexts; its end ends the subscription
	topic  string
	links  *links
	client sarama.Client
	group  sarama.ConsumerGroup
	out    chan *message.Message
	config Config
	health outage.Outage

	session sarama.ConsumerGroupSession // the last session
	trouble atomic.Pointer[error]       // the last error, of any partition
}

// newSubscription returns a subscription whose channel buffers messages, so that a
// receiver can record many together.
func newSubscription(ctx context.Context, s *subscriber, topic string, links *links, client sarama.Client, group sarama.ConsumerGroup) *subscription {
	return &subscription{
		ctx: ctx, topic: topic, links: links, client: client, group: group, config: s.config,
		out:    make(chan *message.Message, 500),
		health: outage.Outage{What: "receiving " + topic + " as " + s.group, Log: s.config.Logger},
	}
}

// run is a member of the group until the context ends. It joins again whenever the broker
// was away.
func (s *subscription) run() {
	var beside sync.WaitGroup
	beside.Go(s.listen)
	over := make(chan struct{})
	beside.Go(func() { s.hurry(over) })
	for pace := outage.Pace(5 * time.Second); s.ctx.Err() == nil; {
		began := time.Now()
		err := s.consume()
		s.health.Report(s.ctx, err)
		if time.Since(began) > time.Minute {
			pace.Reset()
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(pace.NextBackOff()):
		}
	}
	s.note(errors.Join(s.group.Close(), s.client.Close()))
	close(over)
	beside.Wait()
	s.close()
}

// consume takes part in one session of the group, and returns why the session ended.
func (s *subscription) consume() error {
	s.session = nil
	s.trouble.Store(nil)
	err := s.group.Consume(s.ctx, []string{s.topic}, s)
	if err == nil && s.session != nil {
		err = context.Cause(s.session.Context())
	}
	last := s.trouble.Load()
	switch {
	case last == nil && err == nil:
		return errors.New("the session ended")
	case last == nil:
		return err
	case err == nil:
		return *last
	}
	return fmt.Errorf("%w; %w", err, *last)
}

// listen keeps the last error that sarama reports. Sarama retries by itself, or ends the
// session.
func (s *subscription) listen() {
	for err := range s.group.Errors() {
		s.trouble.Store(&err)
		s.note(err)
	}
}

func (s *subscription) note(err error) {
	if err != nil {
		s.config.Logger.Debug("Kafka reports an error", "topic", s.topic, "error", err)
	}
}

// hurry cuts the connections when closing takes too long: joining a group waits for its
// other members, and anything waits for a broker that does not answer.
func (s *subscription) hurry(over <-chan struct{}) {
	<-s.ctx.Done()
	select {
	case <-over:
	case <-time.After(lingering + 2*time.Second):
		s.links.Cut()
	}
}

// close drops the buffered messages; the group delivers them again.
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
	s.health.Report(s.ctx, nil)
	return nil
}

// Cleanup is called when the session ends.
func (s *subscription) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim delivers a partition until it is given to another member or the session is
// over.
func (s *subscription) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	p := &partition{subscription: s, session: session, claim: claim}
	p.run()
	return nil
}
