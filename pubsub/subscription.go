package pubsub

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// subscription is one call of Subscribe. Its pump sends leased runs down the channel as
// messages. A message is in flight until its run has ended.
type subscription struct {
	pubsub   *PubSub
	key      store.Subscription
	ctx      context.Context // parent of the messages' contexts
	policy   handlers.Policy
	slots    *slots      // shared with the Subscriber's other subscriptions
	recorded bool        // Record reports the ends; no goroutine waits for acks
	attended atomic.Bool // Record has been seen to begin a run
	unheard  sync.Once   // logs once that Record is missing
	out      chan *message.Message

	inactive bool // nothing is delivered any more; guarded by pubsub.mu

	mu      sync.Mutex
	queue   []*queue.Claimed
	tracked map[*flight]struct{}

	queued  chan struct{} // the queue may not be empty
	once    sync.Once
	closing chan struct{} // nothing more is sent
	sealed  chan struct{} // nothing more is queued
	ended   chan struct{} // everything has ended

	inFlight sync.WaitGroup
}

// flight is one message on its way.
type flight struct {
	msg      *message.Message
	delivery *handlers.Delivery
	ctx      context.Context // the message's first context
	cancel   context.CancelFunc
}

func newSubscription(ctx context.Context, p *PubSub, key store.Subscription, policy handlers.Policy, slots *slots, recorded bool) *subscription {
	return &subscription{
		pubsub:   p,
		key:      key,
		ctx:      context.WithoutCancel(ctx),
		recorded: recorded,
		out:      make(chan *message.Message),
		policy:   policy,
		slots:    slots,
		tracked:  map[*flight]struct{}{},
		queued:   make(chan struct{}, 1),
		closing:  make(chan struct{}),
		sealed:   make(chan struct{}),
		ended:    make(chan struct{}),
	}
}

func (s *subscription) close() { s.once.Do(func() { close(s.closing) }) }

// run lives as long as the subscription and ends it: first nothing new is sent, then
// running handlers get the grace period.
func (s *subscription) run(ctx context.Context) {
	defer close(s.ended)
	var pumping sync.WaitGroup
	pumping.Go(s.pump)
	select {
	case <-ctx.Done():
		s.close()
	case <-s.closing:
	}
	s.pubsub.deactivate(s)
	close(s.sealed)
	pumping.Wait()
	close(s.out)

	grace := time.AfterFunc(s.pubsub.config.GracePeriod, s.interrupt)
	defer grace.Stop()
	s.inFlight.Wait()
}

// deliver queues a leased run, for which a slot is taken. pubsub.mu must be held and the
// subscription be active.
func (s *subscription) deliver(c *queue.Claimed) {
	s.inFlight.Add(1)
	s.mu.Lock()
	s.queue = append(s.queue, c)
	s.mu.Unlock()
	signal(s.queued)
}

// pump sends queued runs. Once the subscription is closing, it makes them due again
// instead.
func (s *subscription) pump() {
	for {
		s.mu.Lock()
		queue := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, c := range queue {
			s.send(c)
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-s.queued:
		case <-s.sealed:
			if s.empty() {
				return
			}
		}
	}
}

func (s *subscription) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) == 0
}

func (s *subscription) send(c *queue.Claimed) {
	f := s.track(c)
	select {
	case <-s.closing: // also when the channel has a receiver
		s.release(f)
		return
	default:
	}
	if c.Unusable != "" || s.policy.Exhausted(c.Run) {
		go s.giveUp(f, c.Unusable)
		return
	}
	select {
	case s.out <- f.msg:
		switch {
		case !s.recorded:
			go s.await(f, f.acknowledge)
		case !s.attended.Load():
			go s.attend(f)
		}
	case <-s.closing:
		s.release(f)
	}
}

// track makes the message of a run and keeps it in tracked. The end of the run gives the
// slot back.
func (s *subscription) track(c *queue.Claimed) *flight {
	f := &flight{msg: message.NewMessage(c.Event.ID, c.Event.Payload)}
	if c.Event.Metadata != nil {
		f.msg.Metadata = c.Event.Metadata
	}
	f.delivery = handlers.NewDelivery(&c.Run, &s.policy, func(o queue.Outcome, written bool) error {
		s.pubsub.failures.report(&c.Run, &s.policy, o)
		if written {
			s.pubsub.forget([]queue.Outcome{o})
		} else {
			s.pubsub.end(o)
		}
		s.pubsub.release(s)
		s.untrack(f)
		return nil
	})
	f.delivery.For(f.msg, func() { go s.await(f, f.end) })
	f.ctx, f.cancel = context.WithCancel(handlers.WithDelivery(s.ctx, f.delivery))
	f.ctx = cqrs.CtxWithOriginalMessage(f.ctx, f.msg)
	f.msg.SetContext(f.ctx)
	s.mu.Lock()
	s.tracked[f] = struct{}{}
	s.mu.Unlock()
	return f
}

// untrack is called once for each flight, when its run has ended, and cancels its
// context.
func (s *subscription) untrack(f *flight) {
	s.mu.Lock()
	delete(s.tracked, f)
	s.mu.Unlock()
	f.cancel()
	s.inFlight.Done()
}

// release makes a run that was never sent due again.
func (s *subscription) release(f *flight) {
	f.delivery.Abort(queue.Outcome{Status: store.Pending, Refund: true})
}

// giveUp ends a run without calling the handler: because its event is unusable, or
// because its tries are used up. In the second case the last error on record decides.
func (s *subscription) giveUp(f *flight, unusable string) {
	if unusable != "" {
		_ = f.delivery.End(f.ctx, handlers.EventLost(unusable)) // our report returns no error
		return
	}
	run, err := s.pubsub.store.Run(f.ctx, f.delivery.Run().ID)
	if err != nil { // try again later
		f.delivery.Abort(queue.Outcome{Status: store.Pending, Delay: s.pubsub.config.PollInterval, Refund: true})
		return
	}
	_ = f.delivery.End(f.ctx, handlers.LastError(run))
}

// await calls end upon the message's ack or nack, unless the run ends before: by
// middleware.Record or by interrupt.
func (s *subscription) await(f *flight, end func(err error)) {
	select {
	case <-f.msg.Acked():
		end(nil)
	case <-f.msg.Nacked():
		end(handlers.ErrNacked)
	case <-f.ctx.Done():
	}
}

func (f *flight) end(err error) {
	_ = f.delivery.End(f.ctx, err) // our report returns no error
}

// acknowledge ends the run unless middleware.Record is at work.
func (f *flight) acknowledge(err error) {
	_ = f.delivery.Acknowledge(f.ctx, err) // our report returns no error
}

// attend checks that middleware.Record reports the end of the run. A message that is
// acked or nacked without Record would keep its slot for ever. Its run ends by the ack or
// nack, and an error is logged once.
func (s *subscription) attend(f *flight) {
	s.await(f, func(err error) {
		if !f.delivery.Begun() && f.ctx.Err() == nil {
			s.unheard.Do(func() {
				s.pubsub.config.Logger.Error("a message was acked or nacked that middleware.Record has not seen, though the subscriber was made for a router with Record: "+
					"add it first, router.AddMiddleware(middleware.Record(st)), or use Subscriber instead of RecordedSubscriber, and an InboxConfig without Recorded; "+
					"until then the acks and nacks decide what becomes of the runs", "handler", s.key.Handler, "topic", s.key.Topic)
			})
		}
		f.acknowledge(err)
	})
	if f.delivery.Begun() {
		s.attended.Store(true)
	}
}

// interrupt ends the runs that have not ended within the grace period. They are due
// again, and the try is given back.
func (s *subscription) interrupt() {
	s.mu.Lock()
	flying := make([]*flight, 0, len(s.tracked))
	for f := range s.tracked {
		flying = append(flying, f)
	}
	s.mu.Unlock()
	for _, f := range flying {
		if f.delivery.Abort(queue.Outcome{Status: store.Pending, Refund: true, Failure: &store.Failure{
			Kind: store.KindInterrupted, Message: fmt.Sprintf("the process shut down and the handler had not ended after %v", s.pubsub.config.GracePeriod),
		}}) {
			s.pubsub.config.Logger.Warn("handler did not end within the grace period: its run is due again",
				"handler", s.key.Handler, "run", f.delivery.Run().ID)
		}
	}
}
