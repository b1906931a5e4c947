package nats

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"

	"github.com/reprise-bus/reprise/internal/outage"
)

const (
	batch    = 500      // messages buffered here, and as many in the client
	maxBytes = 16 << 20 // of messages not acknowledged yet
)

// subscription delivers one topic.
type subscription struct {
	subscriber *subscriber
	topic      string
	values     context.Context // the values of the caller's context, without its end
	out        chan *message.Message
	room       *semaphore.Weighted
	health     outage.Outage
	pace       *backoff.ExponentialBackOff
}

func newSubscription(s *subscriber, ctx context.Context, topic string) *subscription {
	return &subscription{
		subscriber: s, topic: topic, values: context.WithoutCancel(ctx),
		out:    make(chan *message.Message, batch),
		room:   semaphore.NewWeighted(maxBytes),
		health: outage.Outage{What: "receiving " + topic + " from NATS", Log: s.config.Logger},
		pace:   outage.Pace(5 * time.Second),
	}
}

// run delivers until ctx ends, and then closes the channel.
func (s *subscription) run(ctx context.Context) {
	defer s.close()
	for {
		s.health.Report(ctx, s.receive(ctx))
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.pace.NextBackOff()):
		}
	}
}

// close nacks the messages that nobody has received.
func (s *subscription) close() {
	for {
		select {
		case msg := <-s.out:
			msg.Nack()
		default:
			close(s.out)
			return
		}
	}
}

// receive delivers until something fails.
func (s *subscription) receive(ctx context.Context) error {
	conn, js, err := s.subscriber.connection()
	if err != nil {
		return err
	}
	lost := conn.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer conn.RemoveStatusListener(lost)
	if err := connected(conn); err != nil {
		return err
	}
	messages, err := s.messages(ctx, js, conn.MaxPayload())
	if err != nil {
		return err
	}
	defer s.rest(ctx, messages)
	s.health.Report(ctx, nil)
	s.pace.Reset()

	there, gone := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer gone()
	watching.Go(func() {
		select {
		case <-lost:
			gone()
		case <-there.Done():
		}
	})
	for {
		in, err := messages.Next(jetstream.NextContext(there))
		if err != nil && there.Err() != nil {
			return connected(conn)
		}
		if err != nil {
			return err
		}
		s.deliver(ctx, in)
	}
}

func (s *subscription) messages(ctx context.Context, js jetstream.JetStream, largest int64) (jetstream.MessagesContext, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	consumer, err := consumerOf(ctx, js, s.subscriber.config, s.subscriber.handler, s.topic)
	if err != nil {
		return nil, err
	}
	return consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(batch, max(maxBytes/2, 2*int(largest))),
		jetstream.PullHeartbeat(5*time.Second),
	)
}

// rest delivers the messages that the client still has, or gives them back.
func (s *subscription) rest(ctx context.Context, messages jetstream.MessagesContext) {
	messages.Drain()
	for {
		in, err := messages.Next(jetstream.NextMaxWait(100 * time.Millisecond))
		if err != nil {
			return
		}
		s.deliver(ctx, in)
	}
}

// deliver hands the message on, or gives it back if ctx ends first.
func (s *subscription) deliver(ctx context.Context, in jetstream.Msg) {
	msg := unmarshal(in)
	size := min(int64(len(msg.Payload))+1024, maxBytes)
	if s.room.Acquire(ctx, size) != nil {
		giveBack(in)
		return
	}
	carried, cancel := context.WithCancel(s.values)
	msg.SetContext(carried)
	s.subscriber.pending.Go(func() {
		defer s.room.Release(size)
		defer cancel()
		select {
		case <-msg.Acked():
			_ = in.Ack() // a lost ack makes the message come again
		case <-msg.Nacked():
			giveBack(in)
		case <-s.subscriber.over.Done():
		}
	})
	select {
	case s.out <- msg:
	case <-ctx.Done():
		msg.Nack()
	}
}

// giveBack makes the server deliver the message again: at once after its first delivery,
// then 100 ms later for each further delivery, at most 10 s.
func giveBack(in jetstream.Msg) {
	times := uint64(1)
	if where, err := in.Metadata(); err == nil {
		times = where.NumDelivered
	}
	_ = in.NakWithDelay(min(time.Duration(times-1)*100*time.Millisecond, 10*time.Second))
}
