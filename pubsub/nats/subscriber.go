package nats

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// subscriber is the subscriber of one handler. Unlike watermill-nats' it has many
// messages under way at once, delivers messages that it cannot read, and continues after
// the server or the consumer was gone.
//
// An ack is passed on to the server. A nacked message comes again, later each time. A
// message that is neither acked nor nacked comes again after AckWait.
type subscriber struct {
	config  Config
	handler string

	open    context.Context // ends with Close
	stop    context.CancelFunc
	over    context.Context // ends when acks are no longer awaited
	giveUp  context.CancelFunc
	loops   sync.WaitGroup // of the subscriptions
	pending sync.WaitGroup // messages neither acked nor nacked

	mu sync.Mutex // serialises Subscribe and Close

	connecting sync.Mutex // may be held for long while a server does not answer
	conn       *nats.Conn
	js         jetstream.JetStream
}

func newSubscriber(config Config, handler string) *subscriber {
	s := &subscriber{config: config, handler: handler}
	s.open, s.stop = context.WithCancel(context.Background())
	s.over, s.giveUp = context.WithCancel(context.Background())
	return s
}

// Subscribe delivers the messages of the topic's stream for the handler until ctx ends.
// It does not wait for the server.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open.Err() != nil {
		return nil, errors.New("the subscriber is closed: use a new one")
	}
	sub := newSubscription(s, ctx, topic)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.open, cancel)
	s.loops.Go(func() {
		defer cancel()
		defer stop()
		sub.run(ctx)
	})
	return sub.out, nil
}

// Close ends the delivery and closes the channels. Delivered messages may be acked for 1
// s more.
func (s *subscriber) Close() error {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.loops.Wait()
	timer := time.AfterFunc(time.Second, s.giveUp)
	s.pending.Wait()
	timer.Stop()
	s.giveUp()

	s.connecting.Lock()
	defer s.connecting.Unlock()
	if s.conn == nil {
		return nil
	}
	if s.conn.IsConnected() {
		_ = s.conn.FlushTimeout(time.Second) // a lost ack makes the message come again
	}
	s.conn.Close()
	return nil
}

// connection returns the subscriber's connection, which is made when first needed.
func (s *subscriber) connection() (*nats.Conn, jetstream.JetStream, error) {
	s.connecting.Lock()
	defer s.connecting.Unlock()
	if s.conn == nil || s.conn.IsClosed() {
		conn, js, err := connect(s.config)
		if err != nil {
			return nil, nil, err
		}
		s.conn, s.js = conn, js
	}
	return s.conn, s.js, nil
}
