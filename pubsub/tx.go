package pubsub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// Transaction is a transaction that InTx commits.
type Transaction struct {
	*sqlx.Tx
	handovers []*handover
	inserted  queue.Inserted
	outgoing  []func() // called after the commit
}

// published reports whether anything was published.
func (tx *Transaction) published() bool {
	return len(tx.handovers) > 0 || tx.inserted.Due > 0 || len(tx.outgoing) > 0
}

// InTx runs f in a transaction and commits it. It rolls back when f returns an error or
// panics. Events that f publishes through PublisherTx are handed to their handlers right
// after the commit, as with Publisher. Until then the transaction holds slots of these
// handlers, so keep f short.
//
// On SQLite, and on a pool of one connection, nothing else can be written until f has
// returned. Publish and InTx return an error at once when f calls them. If f calls them
// in another goroutine and waits for it, they wait until their contexts end.
//
// The isolation level is the database's default, since f is the caller's. At serializable
// or repeatable read InTx can fail with SQLSTATE 40001, and at any level with 40P01, a
// deadlock. Then nothing is written, and the caller may call InTx again.
//
// f must not end the transaction: if it commits or rolls back, InTx returns
// store.ErrEnded and ErrMaybeWritten. f must not undo a publish by a rollback to a
// savepoint: the handlers would get the event all the same.
func (p *PubSub) InTx(ctx context.Context, f func(tx *Transaction) error) error {
	return p.inTx(ctx, nil, f)
}

// PublishInTx is InTx for an f that only publishes, through PublisherTx. The isolation
// level is READ COMMITTED. After a collision with other transactions f is called again.
func (p *PubSub) PublishInTx(ctx context.Context, f func(tx *Transaction) error) error {
	return store.Again(ctx, func() error { return p.inTx(ctx, p.db.TxOptions(), f) })
}

func (p *PubSub) inTx(ctx context.Context, options *sql.TxOptions, f func(tx *Transaction) error) (err error) {
	if err := p.wouldWaitForItself(ctx); err != nil {
		return err
	}
	begun, over, err := p.db.Begin(ctx, options)
	if err != nil {
		return nothingWritten(err)
	}
	tx := &Transaction{Tx: begun}
	committed := false
	defer func() {
		if committed {
			for _, h := range tx.handovers {
				h.deliver()
			}
			p.announce(tx.inserted)
			for _, committed := range tx.outgoing {
				committed()
			}
			return
		}
		for _, h := range tx.handovers {
			h.cancel()
		}
	}()
	defer over()
	defer func() {
		if committed {
			return
		}
		ended := errors.Is(err, store.ErrEnded)
		if !ended && tx.published() {
			ended = p.db.Over(ctx, begun) != nil
		}
		// A rollback after a failed commit does nothing, and neither does a rollback
		// after f has ended the transaction itself, perhaps by a commit.
		undone := begun.Rollback()
		if undone == nil && !ended {
			return
		}
		for _, h := range tx.handovers {
			if h.wanted() {
				p.doubt(h.leaser)
			}
		}
		if !errors.Is(undone, sql.ErrTxDone) {
			err = errors.Join(err, undone)
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	if tx.published() { // the commit of some drivers succeeds without a transaction
		if p.db.Over(ctx, begun) != nil {
			return endedItself(store.ErrEnded)
		}
	}
	switch err := begun.Commit(); {
	case errors.Is(err, sql.ErrTxDone) && ctx.Err() == nil:
		return endedItself(store.ErrEnded)
	case err != nil:
		return fmt.Errorf("commit: %w", whatIsKnown(err))
	}
	committed = true
	return nil
}

// endedItself returns the error of an InTx whose function has ended the transaction.
func endedItself(err error) error {
	return maybeWritten(fmt.Errorf("commit: %w: leave both to InTx, which commits when its function returns nil", err))
}

// publishTx inserts the events in the caller's transaction.
func (p *PubSub) publishTx(ctx context.Context, tx Tx, events []store.Event) error {
	own, ok := tx.(*Transaction)
	if !ok {
		inserted, known, err := p.insertDue(ctx, tx, events)
		if err != nil {
			return err
		}
		sayKnown(ctx, p.config.Logger, events, known)
		p.heard(events, inserted)
		return p.announceTx(ctx, tx, inserted)
	}
	if len(split(events)) > 1 { // no handler has that many free slots
		inserted, known, err := p.insertDue(ctx, tx, events)
		own.inserted.Due += inserted.Due
		if err == nil {
			sayKnown(ctx, p.config.Logger, events, known)
			p.heard(events, inserted)
		}
		return err
	}
	if err := p.subscribeRegisteredTx(ctx, tx); err != nil {
		return err
	}
	unique, others, err := queue.Unique(events)
	if err != nil {
		return err
	}
	h := p.reserve(unique)
	inserted, err := p.insert(ctx, tx, unique, h)
	if err != nil {
		h.cancel()
		return err
	}
	if h != nil {
		own.handovers = append(own.handovers, h)
	}
	more, known, err := p.insertRepeats(ctx, tx, unique, others, inserted)
	own.inserted.Due += inserted.Due + more.Due
	if err != nil {
		return err
	}
	sayKnown(ctx, p.config.Logger, events, known)
	p.heard(events, inserted)
	return nil
}
