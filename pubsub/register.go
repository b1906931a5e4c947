package pubsub

import (
	"context"
	"slices"

	"github.com/reprise-bus/reprise/store"
)

// registration is how far a subscription that this process knows of has come.
type registration int

const (
	unknown     registration = iota // nobody has looked
	uncommitted                     // written in a transaction that may have been rolled back
	subscribed                      // in the database
)

// Register makes a handler of this process known without subscribing it yet.
// Its subscription is in the database before the next publish of this PubSub
// returns, so that no event from then on is missed.
func (p *PubSub) Register(topic, handler string) error {
	sub := store.Subscription{Topic: topic, Handler: handler}
	if err := sub.Validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.registered[sub]; !known {
		p.registered[sub] = unknown
	}
	return nil
}

// subscribeRegistered puts what is registered into the database.
func (p *PubSub) subscribeRegistered(ctx context.Context) error {
	missing := p.missing()
	if len(missing) == 0 {
		return nil
	}
	if err := p.store.Subscribe(ctx, missing...); err != nil {
		return err
	}
	p.mark(subscribed, missing...)
	return nil
}

// subscribeRegisteredTx does it in a caller's transaction, where it takes no
// lock on what is there already. What it had to write may be rolled back, and
// what was written so before may be the transaction's own: neither is known to
// stay.
func (p *PubSub) subscribeRegisteredTx(ctx context.Context, tx Tx) error {
	for _, sub := range p.missing() {
		fresh, err := p.store.SubscribeTx(ctx, tx, sub)
		if err != nil {
			return err
		}
		if fresh {
			p.mark(uncommitted, sub)
			continue
		}
		p.mu.Lock()
		if p.registered[sub] == unknown {
			p.registered[sub] = subscribed
		}
		p.mu.Unlock()
	}
	return nil
}

// missing returns what is not known to be in the database, in one order
// everywhere, so that two processes do not lock the rows crosswise.
func (p *PubSub) missing() []store.Subscription {
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []store.Subscription
	for sub, r := range p.registered {
		if r != subscribed {
			missing = append(missing, sub)
		}
	}
	slices.SortFunc(missing, store.Subscription.Compare)
	return missing
}

func (p *PubSub) mark(r registration, subs ...store.Subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sub := range subs {
		p.registered[sub] = r
	}
}
