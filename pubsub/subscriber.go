package pubsub

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// Subscriber is a Watermill subscriber for one handler: its due runs, each as
// a message. Subscribers of one handler, here and in other processes, share
// its runs.
//
// A message whose handler is wrapped in middleware.Record is ended by it.
// Otherwise an ack is the run's success, and a nack makes it due again after
// the ResendInterval.
type Subscriber struct {
	pubsub  *PubSub
	handler string

	mu     sync.Mutex
	closed bool
	open   []*subscription
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// Subscriber returns a subscriber for the handler, whose name is its identity
// in the database: what Watermill calls a consumer group.
func (p *PubSub) Subscriber(handler string) *Subscriber {
	return &Subscriber{pubsub: p, handler: handler}
}

// SubscribeInitialize puts the subscription into the database: events that are
// published from then on are delivered by a later Subscribe.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	if err := s.pubsub.Register(topic, s.handler); err != nil {
		return err
	}
	return s.pubsub.subscribeRegistered(context.Background())
}

// Subscribe delivers the handler's due runs on the topic until ctx ends or the
// Subscriber is closed; then the channel is closed. Messages that are being
// handled at that moment stay alive: their contexts are cancelled by their ack
// or nack, or when the grace period is over. They carry the values of ctx.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := s.pubsub.Register(topic, s.handler); err != nil {
		return nil, err
	}
	if err := s.pubsub.subscribeRegistered(ctx); err != nil {
		return nil, err
	}
	if err := s.pubsub.start(ctx); err != nil {
		return nil, fmt.Errorf("subscribe handler %q to topic %q: %w", s.handler, topic, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribe handler %q to topic %q: %w", s.handler, topic, ErrClosed)
	}
	sub := &subscription{
		pubsub:  s.pubsub,
		key:     store.Subscription{Topic: topic, Handler: s.handler},
		ctx:     context.WithoutCancel(ctx),
		out:     make(chan *message.Message),
		closing: make(chan struct{}),
		overdue: make(chan struct{}),
		ended:   make(chan struct{}),
		free:    s.pubsub.config.Concurrency,
	}
	if err := s.pubsub.activate(ctx, sub); err != nil {
		return nil, err
	}
	s.open = append(s.open, sub)
	return sub.out, nil
}

// Close ends all subscriptions of this Subscriber and returns when their
// messages have been handled or the grace period is over.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	open := s.open
	s.mu.Unlock()
	for _, sub := range open {
		sub.close()
	}
	for _, sub := range open {
		<-sub.ended
	}
	return nil
}

func (p *PubSub) activate(ctx context.Context, s *subscription) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	p.active[s.key] = append(p.active[s.key], s)
	p.subscriptions.Go(func() { s.run(ctx) })
	signal(p.wake)
	return nil
}

func (p *PubSub) deactivate(s *subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.inactive = true
	var left []*subscription
	for _, other := range p.active[s.key] {
		if other != s {
			left = append(left, other)
		}
	}
	p.active[s.key] = left
	if len(left) == 0 {
		delete(p.active, s.key)
		delete(p.backlog, s.key)
	}
}

// subscription is one call of Subscribe.
type subscription struct {
	pubsub *PubSub
	key    store.Subscription
	ctx    context.Context
	out    chan *message.Message

	free     int  // slots; pubsub.mu is held
	inactive bool // nothing is delivered any more; pubsub.mu is held

	once    sync.Once
	closing chan struct{} // nothing more is sent
	overdue chan struct{} // the grace period is over
	ended   chan struct{} // all is done

	sending  sync.WaitGroup
	inFlight sync.WaitGroup
}

func (s *subscription) close() { s.once.Do(func() { close(s.closing) }) }

// run waits for the end of the subscription and brings it about: first nothing
// new, then the grace period for what is running.
func (s *subscription) run(ctx context.Context) {
	defer close(s.ended)
	select {
	case <-ctx.Done():
		s.close()
	case <-s.closing:
	}
	s.pubsub.deactivate(s)
	s.sending.Wait()
	close(s.out)

	grace := time.AfterFunc(s.pubsub.config.GracePeriod, func() { close(s.overdue) })
	defer grace.Stop()
	s.inFlight.Wait()
}

// deliver sends a leased run as a message and sees it to its end, in a
// goroutine of the subscription; pubsub.mu is held.
func (s *subscription) deliver(c store.Claimed) {
	s.sending.Add(1)
	s.inFlight.Go(func() {
		d := store.NewDelivery(c.Lease, func(o store.Outcome) {
			s.pubsub.end(o)
			s.pubsub.release(s)
		})
		msg, cancel := s.message(c, d)
		defer cancel()
		if s.send(msg) {
			s.await(msg, d)
		} else {
			d.End(store.Outcome{Status: store.Pending, Refund: true})
		}
	})
}

func (s *subscription) message(c store.Claimed, d *store.Delivery) (*message.Message, context.CancelFunc) {
	msg := message.NewMessage(c.Event.ID, c.Event.Payload)
	for k, v := range c.Event.Metadata {
		msg.Metadata.Set(k, v)
	}
	ctx, cancel := context.WithCancel(store.WithDelivery(s.ctx, d))
	msg.SetContext(cqrs.CtxWithOriginalMessage(ctx, msg))
	return msg, cancel
}

func (s *subscription) send(msg *message.Message) bool {
	defer s.sending.Done()
	select {
	case s.out <- msg:
		return true
	case <-s.closing:
		return false
	}
}

// await ends the run by the message's ack or nack, unless middleware.Record
// has ended it before.
func (s *subscription) await(msg *message.Message, d *store.Delivery) {
	select {
	case <-msg.Acked():
		d.End(store.Outcome{Status: store.Success})
	case <-msg.Nacked():
		d.End(store.Outcome{Status: store.Pending, Delay: s.pubsub.config.ResendInterval, Failure: &store.Failure{
			Kind: store.KindNack, Message: "the message was nacked",
		}})
	case <-s.overdue:
		if d.End(store.Outcome{Status: store.Pending, Refund: true, Failure: &store.Failure{
			Kind: store.KindInterrupted, Message: fmt.Sprintf("the process shut down and the handler had not ended after %v", s.pubsub.config.GracePeriod),
		}}) {
			s.pubsub.config.Logger.Warn("handler did not end within the grace period: its run is due again",
				"handler", s.key.Handler, "run", d.Lease().RunID)
		}
	}
}
