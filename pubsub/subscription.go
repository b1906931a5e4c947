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

// subscription is one call of Subscribe. Its pump sends leased runs down the
// channel as messages; each is in flight until its end is known.
type subscription struct {
	pubsub   *PubSub
	key      store.Subscription
	ctx      context.Context // of messages
	policy   handlers.Policy
	slots    *slots      // those of the Subscriber
	recorded bool        // Record tells the ends; nobody waits for acks
	attended atomic.Bool // Record has been seen to do so
	unheard  sync.Once   // that it does not is said
	out      chan *message.Message

	inactive bool // nothing is delivered any more; pubsub.mu is held

	mu      sync.Mutex
	queue   []*queue.Claimed
	tracked map[*flight]struct{}

	queued  chan struct{} // the queue is not empty, perhaps
	once    sync.Once
	closing chan struct{} // nothing more is sent
	sealed  chan struct{} // nothing more is queued
	ended   chan struct{} // all is done

	inFlight sync.WaitGroup
}

// flight is one message on its way.
type flight struct {
	msg      *message.Message
	delivery *handlers.Delivery
	ctx      context.Context // the message's, to begin with
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

// run lives as long as the subscription, and brings its end about: first
// nothing new, then the grace period for what is running.
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

// deliver queues a leased run, for which a slot is taken; pubsub.mu is held and
// the subscription is active.
func (s *subscription) deliver(c *queue.Claimed) {
	s.inFlight.Add(1)
	s.mu.Lock()
	s.queue = append(s.queue, c)
	s.mu.Unlock()
	signal(s.queued)
}

// pump sends what is queued, and releases it once the subscription is closing.
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
	case <-s.closing: // also when somebody receives
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

// track makes the message of a run and keeps it among those in flight. Its end gives the
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

// untrack is called once for each flight, when its end is known, and cancels its
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

// giveUp ends, without a try, a run whose event is unusable, or a cycle whose
// tries are used up by the last error on record.
func (s *subscription) giveUp(f *flight, unusable string) {
	if unusable != "" {
		_ = f.delivery.End(f.ctx, handlers.EventLost(unusable)) // our report does not fail
		return
	}
	run, err := s.pubsub.store.Run(f.ctx, f.delivery.Run().ID)
	if err != nil { // later, then
		f.delivery.Abort(queue.Outcome{Status: store.Pending, Delay: s.pubsub.config.PollInterval, Refund: true})
		return
	}
	_ = f.delivery.End(f.ctx, handlers.LastError(run))
}

// await calls end with what the message's ack or nack says, unless the run ends
// before: by middleware.Record, or by interrupt.
func (s *subscription) await(f *flight, end func(err error)) {
	select {
	case <-f.msg.Acked():
		end(nil)
	case <-f.msg.Nacked():
		end(handlers.ErrNacked)
	case <-f.ctx.Done():
	}
}

// end ends the run.
func (f *flight) end(err error) {
	_ = f.delivery.End(f.ctx, err) // our report does not fail
}

// acknowledge ends the run unless middleware.Record is at work.
func (f *flight) acknowledge(err error) {
	_ = f.delivery.Acknowledge(f.ctx, err) // our report does not fail
}

// attend sees to it that middleware.Record tells the end of the run, as was said. If
// a message is acked or nacked that Record has not seen, no end would ever be told,
// and all slots would be taken for good: it is ended as by await, and an error names
// the mistake.
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

// interrupt ends what has not ended within the grace period: it is due again,
// without losing the attempt.
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
