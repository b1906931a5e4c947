package pubsub

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Subscriber is a Watermill subscriber for one handler: it delivers each due run as a
// message. Subscribers of one handler, in this and other processes, share its runs. Each
// works on Policy.Concurrency runs at once, on all its topics together.
//
// If the handler is wrapped in middleware.Record, Record ends the run. Otherwise an ack
// is the run's success, and a nack is a failed attempt of unknown cause. The policy
// decides about the run.
type Subscriber struct {
	pubsub   *PubSub
	handler  string
	policy   handlers.Policy
	slots    *slots
	recorded bool

	mu     sync.Mutex
	closed bool
	open   []*subscription
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// Subscriber returns a subscriber for the handler. The name is the handler's identity in
// the database, like Watermill's consumer group. The policy's Timeout and Transactional
// have no effect here: middleware implements them.
func (p *PubSub) Subscriber(handler string, policy handlers.Policy) *Subscriber {
	return p.subscriber(handler, policy, false)
}

// RecordedSubscriber returns a Subscriber for a router whose first middleware is
// middleware.Record and whose handler returns no messages to publish. Record reports the
// end of each run, and no goroutine waits for acks and nacks, which saves one per
// message. If the first message shows that Record is missing, an error is logged, and the
// subscriber works as Subscriber does.
func (p *PubSub) RecordedSubscriber(handler string, policy handlers.Policy) *Subscriber {
	return p.subscriber(handler, policy, true)
}

func (p *PubSub) subscriber(handler string, policy handlers.Policy, recorded bool) *Subscriber {
	n := cmp.Or(policy.Concurrency, p.config.Concurrency)
	return &Subscriber{pubsub: p, handler: handler, policy: policy, slots: &slots{all: n, free: n}, recorded: recorded}
}

// SubscribeInitialize commits the subscription. A later Subscribe delivers all events
// that are published from then on. While the database is away or busy,
// SubscribeInitialize waits, until the PubSub is closed.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	return s.begin(s.pubsub.loopCtx, topic, s.pubsub.subscribeRegistered)
}

// begin registers the handler and then runs the given functions. It retries while the
// error is transient, until ctx ends.
func (s *Subscriber) begin(ctx context.Context, topic string, does ...func(ctx context.Context) error) error {
	if err := s.pubsub.Register(topic, s.handler, s.policy); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.pubsub.loopCtx, cancel)()
	health := outage.Outage{What: "subscribing handler " + s.handler + " to topic " + topic, Log: s.pubsub.config.Logger}
	err := health.Until(ctx, 5*time.Second, sqldb.Transient, func() error {
		for _, do := range does {
			if err := do(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && s.pubsub.loopCtx.Err() != nil {
		return ErrClosed
	}
	return err
}

// Subscribe delivers the handler's due runs on the topic until ctx ends or the Subscriber
// is closed. Then it closes the channel. Messages that are being handled at that moment
// stay alive: their contexts end with their ack or nack, or after the grace period. They
// carry the values of ctx.
//
// While the database is away or busy, Subscribe waits until it works or ctx ends. A
// lasting problem, such as a missing permission, is an error.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := s.begin(ctx, topic, s.pubsub.subscribeRegistered, s.pubsub.start); err != nil {
		return nil, fmt.Errorf("subscribe handler %q to topic %q: %w", s.handler, topic, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribe handler %q to topic %q: %w", s.handler, topic, ErrClosed)
	}
	sub := newSubscription(ctx, s.pubsub, store.Subscription{Topic: topic, Handler: s.handler}, s.policy, s.slots, s.recorded)
	if err := s.pubsub.activate(ctx, sub); err != nil {
		return nil, err
	}
	s.open = append(s.open, sub)
	return sub.out, nil
}

// Close ends all subscriptions of this Subscriber. It returns when their messages have
// been handled or the grace period is over.
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
	s.slots.of = append(s.slots.of, s)
	p.note(s.key) // events published before are older than those to come
	p.subscriptions.Go(func() { s.run(ctx) })
	p.owed(s.key)
	signal(p.wake)
	signal(p.serve)
	return nil
}

func (p *PubSub) deactivate(s *subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.inactive = true
	same := func(other *subscription) bool { return other == s }
	p.active[s.key] = slices.DeleteFunc(p.active[s.key], same)
	s.slots.of = slices.DeleteFunc(s.slots.of, same)
	if len(p.active[s.key]) == 0 {
		delete(p.active, s.key)
		delete(p.backlog, s.key)
	}
}
