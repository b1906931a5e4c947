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

// subscriber is the subscriber of one handler. Unlike watermill-nats' it has
// many messages under way at once, delivers what it cannot read, and goes on
// when the server or the consumer was gone.
//
// An ack is the server's, a nack brings the message again, later each time.
// What is neither acked nor nacked comes again after AckWait.
type subscriber struct {
	config  Config
	handler string

	open    context.Context // until Close
	stop    context.CancelFunc
	over    context.Context // until nobody waits for acks any more
	giveUp  context.CancelFunc
	loops   sync.WaitGroup // of the subscriptions
	pending sync.WaitGroup // messages that are neither acked nor nacked

	mu sync.Mutex // of Subscribe and Close

	connecting sync.Mutex // may take as long as a server does that does not answer
	conn       *nats.Conn
	js         jetstream.JetStream
}

func newSubscriber(config Config, handler string) *subscriber {
	s := &subscriber{config: config, handler: handler}
	s.open, s.stop = context.WithCancel(context.Background())
	s.over, s.giveUp = context.WithCancel(context.Background())
	return s
}

// Subscribe delivers what the topic's stream has for the handler until ctx
// ends. It does not wait for the server.
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

// Close ends what is delivered, and the channels with it. What was delivered
// may be acked for a second more.
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
		_ = s.conn.FlushTimeout(time.Second) // what is lost here is delivered again
	}
	s.conn.Close()
	return nil
}

// connection returns the subscriber's connection, which is made when it is
// first needed.
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
