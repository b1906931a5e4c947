package pubsub

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// registration is the state of a subscription that this process knows.
type registration struct {
	policy    string // as stored for readers
	beginning bool   // a new subscription gets past events, too
	step      step
}

type step int

const (
	unknown     step = iota // not looked up yet
	uncommitted             // written in a transaction that may have been rolled back
	present                 // in the database, perhaps with another policy
	subscribed              // in the database, with this policy
)

// Register adds a handler to this process without subscribing it yet. The subscription is
// in the database before the next publish of this PubSub returns, so that the handler
// gets every event from then on.
func (p *PubSub) Register(topic, handler string, policy handlers.Policy) error {
	sub := store.Subscription{Topic: topic, Handler: handler}
	if err := sub.Validate(); err != nil {
		return err
	}
	if err := policy.Validate(); err != nil {
		return fmt.Errorf("handler %q: policy: %w", handler, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.registered[sub]; !known {
		p.registered[sub] = &registration{policy: policy.Describe(), beginning: policy.From == handlers.Beginning}
	}
	return nil
}

// Unregister removes a handler from this process if nothing is subscribed for it here. A
// subscription in the database stays.
func (p *PubSub) Unregister(topic, handler string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sub := store.Subscription{Topic: topic, Handler: handler}
	if len(p.active[sub]) == 0 {
		delete(p.registered, sub)
	}
}

// SubscribeRegistered commits the subscriptions of all registered handlers. Every event
// that is committed from then on gets its runs. An event of a transaction that is open at
// this moment may get them after that transaction has ended, from a process that serves
// the handler.
//
// While the database is away or busy, SubscribeRegistered waits, until ctx ends.
func (p *PubSub) SubscribeRegistered(ctx context.Context) error {
	health := outage.Outage{What: "subscribing handlers", Log: p.config.Logger}
	return health.Until(ctx, time.Second, sqldb.Transient, func() error { return p.subscribeRegistered(ctx) })
}

// subscribeRegistered commits the registered subscriptions.
func (p *PubSub) subscribeRegistered(ctx context.Context) error {
	for _, m := range p.missing(subscribed) {
		subscribe := p.queue.Subscribe
		if m.beginning {
			subscribe = operate.On(p.store).SubscribeFromBeginning
		}
		if err := store.Again(ctx, func() error { return subscribe(ctx, m.sub, m.policy) }); err != nil {
			return err
		}
		p.mark(subscribed, m.sub)
	}
	return nil
}

// subscribeRegisteredTx subscribes in a caller's transaction, where it takes no lock on
// existing subscriptions. A subscription that it writes may be rolled back, and an
// existing one may have been written by the same transaction: neither counts as
// committed.
func (p *PubSub) subscribeRegisteredTx(ctx context.Context, tx Tx) error {
	for _, m := range p.missing(present) {
		fresh, err := p.queue.SubscribeTx(ctx, tx, m.sub, m.policy)
		if err != nil {
			return err
		}
		if fresh && m.beginning {
			if err := operate.On(p.store).RequestPast(ctx, tx, m.sub); err != nil {
				return err
			}
		}
		switch {
		case fresh:
			p.mark(uncommitted, m.sub)
		case m.step == unknown:
			p.mark(present, m.sub)
		}
	}
	return nil
}

// subscribeAgain subscribes again where a subscription of this process was removed
// meanwhile, and logs that.
func (p *PubSub) subscribeAgain(ctx context.Context) error {
	there, err := p.store.SubscriptionKeys(ctx)
	if err != nil {
		return err
	}
	var removed []store.Subscription
	p.mu.Lock()
	for sub, r := range p.registered {
		if r.step >= present && !there[sub] {
			r.step = unknown
			removed = append(removed, sub)
		}
	}
	p.mu.Unlock()
	for _, sub := range removed {
		p.config.Logger.Warn("the subscription was removed while this process serves it: subscribing again; what was published meanwhile has no run",
			"handler", sub.Handler, "topic", sub.Topic)
	}
	if err := p.subscribeRegistered(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sub := range removed {
		if len(p.active[sub]) > 0 && !p.closed {
			p.owed(sub)
		}
	}
	return nil
}

// missing is a subscription that has not reached the needed step.
type missing struct {
	sub store.Subscription
	registration
}

// missing returns the subscriptions in the same order in all processes, so that two
// processes do not deadlock on the rows.
func (p *PubSub) missing(enough step) []missing {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []missing
	for sub, r := range p.registered {
		if r.step < enough {
			all = append(all, missing{sub, *r})
		}
	}
	slices.SortFunc(all, func(a, b missing) int { return a.sub.Compare(b.sub) })
	return all
}

func (p *PubSub) mark(s step, sub store.Subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.registered[sub]; r != nil { // nil: unregistered meanwhile
		r.step = s
	}
}
