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

// Transaction is one that InTx commits.
type Transaction struct {
	*sqlx.Tx
	handovers []*handover
	inserted  queue.Inserted
	outgoing  []func() // told of the commit
}

// published says whether anything was.
func (tx *Transaction) published() bool {
	return len(tx.handovers) > 0 || tx.inserted.Due > 0 || len(tx.outgoing) > 0
}

// InTx runs f in a transaction and commits it, or rolls it back when f returns
// an error or panics. What f publishes through PublisherTx is handed to its
// handlers right after the commit, as with Publisher.
//
// On SQLite, and on a pool of one connection, nothing else can be written until
// f has returned: Publish and InTx that f calls return an error at once. Those
// that it calls by way of another goroutine, and waits for, wait until their
// contexts end.
//
// The transaction has the isolation level that is the database's default, since f
// is the caller's: where that is serializable or repeatable read, InTx can fail
// with SQLSTATE 40001, as at any level with 40P01, a deadlock. Nothing is written
// then, and the caller may call InTx again.
//
// f leaves the end of the transaction to InTx: where it has committed or rolled back
// itself, InTx returns store.ErrEnded and ErrMaybeWritten.
//
// The slots that are reserved for that are taken until then: keep f short. What
// f has published it must not undo by rolling back to a savepoint: the handlers
// would get it all the same.
func (p *PubSub) InTx(ctx context.Context, f func(tx *Transaction) error) error {
	return p.inTx(ctx, nil, f)
}

// PublishInTx is InTx for an f that only publishes, through PublisherTx: READ
// COMMITTED, and again from the beginning of f after a collision with others.
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
		// A rollback after a commit that failed does nothing. Nor does it when
		// f has ended the transaction itself: perhaps it was a commit.
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
	if tx.published() { // or the commit of some drivers succeeds without a transaction
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

// endedItself is the error of an InTx whose function has ended the transaction.
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
	if len(split(events)) > 1 { // nobody has that many free slots
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
