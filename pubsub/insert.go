package pubsub

import (
	"context"
	"errors"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// insertNow inserts events, which need not be unique, in a transaction of its own. It
// returns the events that it gave to the statement, and the others with the same ids. If
// the events are probably new, it first tries the statement for new events. A collision
// means that other processes publish the same events. Then it tries, several times, the
// statement that looks for known events, which locks events in one order.
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

// insert writes unique events in one statement, with the leases that the handover asks
// for.
func (p *PubSub) insert(ctx context.Context, db sqldb.Queryer, events []store.Event, h *handover) (queue.Inserted, error) {
	return p.insertBy(ctx, p.queue.Insert, db, events, h)
}

// insertion is the queue's Insert or InsertNew.
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
		// database/sql repeats a statement whose connection was lost: the first execution
		// may have written and leased these events.
		p.doubt(h.leaser)
		defer signal(p.wake)
	}
	h.leased(in.Leased, events)
	return in, nil
}
