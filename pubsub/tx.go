package pubsub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/store"
)

// Transaction is one that InTx commits.
type Transaction struct {
	*sqlx.Tx
	handovers []*handover
	inserted  store.Inserted
	outgoing  []func() // told of the commit
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
// The slots that are reserved for that are taken until then: keep f short. What
// f has published it must not undo by rolling back to a savepoint: the handlers
// would get it all the same.
func (p *PubSub) InTx(ctx context.Context, f func(tx *Transaction) error) (err error) {
	if err := p.wouldWaitForItself(ctx); err != nil {
		return err
	}
	begun, over, err := p.store.Begin(ctx)
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
		// A rollback after a commit that failed does nothing. Nor does it when
		// f has ended the transaction itself: perhaps it was a commit.
		undone := begun.Rollback()
		if undone == nil {
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
	if err := begun.Commit(); err != nil {
		return fmt.Errorf("commit: %w", whatIsKnown(err))
	}
	committed = true
	return nil
}

// publishTx inserts the events in the caller's transaction.
func (p *PubSub) publishTx(ctx context.Context, tx Tx, events []store.Event) error {
	own, ok := tx.(*Transaction)
	if !ok {
		inserted, err := p.insertChunks(ctx, tx, split(events))
		if err != nil {
			return err
		}
		return p.announceTx(ctx, tx, inserted)
	}
	if err := p.subscribeRegisteredTx(ctx, tx); err != nil {
		return err
	}
	for _, chunk := range split(events) {
		chunk, err := store.Unique(chunk)
		if err != nil {
			return err
		}
		h := p.reserve(chunk)
		inserted, err := p.insert(ctx, tx, chunk, h)
		if err != nil {
			h.cancel()
			return err
		}
		if h != nil {
			own.handovers = append(own.handovers, h)
		}
		own.inserted.Due += inserted.Due
	}
	return nil
}
