package pubsub

import (
	"context"
	"errors"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// insertNow is insert in a transaction of its own, of events that need not be
// unique; it returns those that it gave to the statement, and the others of their
// ids. Those that are likely to be new are written as such first. After a collision,
// others are publishing the same events: the statement that looks for known ones is
// tried then, several times, since it locks events in one order.
func (p *PubSub) insertNow(ctx context.Context, events []store.Event, h *handover) (unique, others []store.Event, inserted queue.Inserted, err error) {
	if p.predictor.expectsNew() {
		inserted, err := p.insertBy(ctx, p.queue.InsertNew, p.store.DB(), events, h)
		if !errors.Is(err, queue.ErrKnown) && !sqldb.Collided(err) {
			return events, nil, inserted, err
		}
	}
	unique, others, err = queue.Unique(events)
	if err != nil {
		return nil, nil, inserted, err
	}
	err = store.Again(ctx, func() (err error) {
		inserted, err = p.insert(ctx, p.store.DB(), unique, h)
		return err
	})
	p.predictor.learn(err == nil && len(inserted.IDs) == len(events))
	return unique, others, inserted, err
}

// insert writes unique events in one statement, with the leases that the
// handover asks for.
func (p *PubSub) insert(ctx context.Context, db sqldb.Queryer, events []store.Event, h *handover) (queue.Inserted, error) {
	return p.insertBy(ctx, p.queue.Insert, db, events, h)
}

// insertion is the store's Insert or InsertNew.
type insertion func(ctx context.Context, q sqldb.Queryer, events []store.Event, lease queue.LeaseOnInsert) (queue.Inserted, error)

func (p *PubSub) insertBy(ctx context.Context, insert insertion, db sqldb.Queryer, events []store.Event, h *handover) (queue.Inserted, error) {
	h.begin()
	defer h.inserted()
	in, err := insert(ctx, db, events, h.lease())
	if err != nil {
		if h.wanted() && !sqldb.Refused(err) {
			p.doubt(h.leaser)
		}
		return queue.Inserted{}, err
	}
	if h.wanted() && len(in.IDs) < len(events) {
		// database/sql runs a statement again whose connection was lost: what
		// is there already may have been leased by the first time.
		p.doubt(h.leaser)
		defer signal(p.wake)
	}
	h.leased(in.Leased, events)
	return in, nil
}
