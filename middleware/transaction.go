package middleware

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Transaction gives the handler a transaction on the store's database, which handlers.Tx
// returns. The transaction commits together with the run's SUCCESS when the handler
// returns nil, and is rolled back otherwise. It is also rolled back when another instance
// has got the run meanwhile, so that the handler's writes through it are committed
// exactly once. Put Transaction inside Record and innermost, around the handler alone.
//
// When the database refuses the transaction because of concurrent ones (a serialization
// failure, a deadlock, SQLITE_BUSY), nothing of it is written, and the handler is called
// again in the same attempt. If that continues, the run is due again after 1 s, and the
// try is given back. The same holds when the message's context ends before the
// transaction has begun.
//
// isolation is the isolation level, at most one; default the database's. On SQLite every
// transaction is serializable.
//
// A handler that ends the transaction itself, by Commit or Rollback or by SQL, is FAILED
// at once: another attempt could write the same again. This is not detected for a handler
// that overruns its context, which rolls an open transaction back.
//
// A handler that returns messages to publish is refused, since the router would publish
// them outside the transaction. Publish with bus.PublishTx or pubsub.PublisherTx.
func Transaction(st *store.Store, isolation ...sql.IsolationLevel) message.HandlerMiddleware {
	var options *sql.TxOptions
	if len(isolation) > 0 && isolation[0] != sql.LevelDefault && !st.Database().OneWriter() {
		options = &sql.TxOptions{Isolation: isolation[0]}
	}
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			delivery, ok := handlers.DeliveryOf(msg)
			if !ok {
				return nil, errors.New("transaction: the message carries no run: put middleware.Record before middleware.Transaction, and nothing between them that passes on a copy of the message")
			}
			t := transaction{store: st, queue: queue.Of(st), db: st.Database(), options: options, delivery: delivery, next: next}
			var failed error
			if collided := store.Again(msg.Context(), func() (collided error) {
				failed, collided = t.run(msg)
				return collided
			}); collided != nil {
				return nil, notStarted(collided)
			}
			return nil, failed
		}
	}
}

// notStarted returns the error of a transaction that left nothing behind, through no
// fault of the handler.
func notStarted(err error) error { return fmt.Errorf("%w: %w", handlers.Snooze(time.Second), err) }

type transaction struct {
	store    *store.Store
	queue    *queue.Queue
	db       *sqldb.DB
	options  *sql.TxOptions
	delivery *handlers.Delivery
	next     message.HandlerFunc
}

// run calls the handler in a transaction. It returns why the attempt failed, or the error
// of a collision with other transactions.
func (t transaction) run(msg *message.Message) (failed, collided error) {
	whole := msg.Context()
	tx, over, err := t.db.Begin(whole, t.options)
	switch {
	case sqldb.Collided(err):
		return nil, fmt.Errorf("begin the handler's transaction: %w", err)
	case err != nil && whole.Err() != nil:
		return notStarted(fmt.Errorf("begin the handler's transaction: %w", err)), nil
	case err != nil:
		return fmt.Errorf("begin the handler's transaction: %w", err), nil
	}
	defer over()
	done := false
	defer func() {
		msg.SetContext(whole)
		if done {
			return
		}
		// This runs also when the handler panics. A transaction that the handler ended
		// cannot be rolled back.
		if undone := rollback(tx); !errors.Is(failed, store.ErrEnded) {
			failed = errors.Join(failed, undone)
		}
	}()
	mark, err := t.db.Mark(whole, tx)
	switch {
	case sqldb.Collided(err):
		return nil, fmt.Errorf("begin the handler's transaction: %w", err)
	case err != nil && whole.Err() != nil:
		return notStarted(fmt.Errorf("begin the handler's transaction: %w", err)), nil
	case err != nil:
		return fmt.Errorf("begin the handler's transaction: %w", err), nil
	}
	msg.SetContext(handlers.WithTx(whole, tx))
	produced, err := t.call(msg, tx, mark)
	switch {
	case errors.Is(err, store.ErrEnded):
		return err, nil
	case sqldb.Collided(err) && t.db.Aborted(whole, tx):
		return nil, err
	case err != nil:
		return err, nil
	case len(produced) > 0:
		return handlers.Permanent(errors.New("a transactional handler returned messages to publish: publish them through its transaction")), nil
	}
	switch err := t.queue.SucceedMarked(whole, tx, mark, queue.LeaseOf(t.delivery.Run())); {
	case errors.Is(err, store.ErrEnded):
		return endedItself("returned nil"), nil
	case err != nil:
		return split(err)
	}
	if err := tx.Commit(); err != nil {
		over()
		return split(inDoubt(whole, t.store, t.delivery, fmt.Errorf("commit the handler's transaction: %w", err)))
	}
	done = true
	t.delivery.Committed()
	return nil, nil
}

// call calls the handler. A handler that fails after it has ended its transaction itself
// must not be called again: each attempt would commit its writes once more.
func (t transaction) call(msg *message.Message, tx *sqlx.Tx, mark sqldb.Mark) (produced []*message.Message, err error) {
	whole, returned := msg.Context(), false
	defer func() {
		if returned || t.db.Ended(whole, tx, mark) == nil {
			return
		}
		if value := recover(); value != nil { // nil after runtime.Goexit
			err = endedItself(fmt.Sprintf("panicked: %v\n%s", value, debug.Stack()))
		}
	}()
	produced, err = t.next(msg)
	returned = true
	if err = handlers.SafeError(err); err != nil && t.db.Ended(whole, tx, mark) != nil {
		err = endedItself(fmt.Sprintf("returned an error: %v", err))
	}
	return produced, err
}

// endedItself returns the error of a handler that ended its transaction itself. The
// handler's own error is part of the text only, so that no mark of it counts.
func endedItself(how string) error {
	return handlers.Permanent(fmt.Errorf("%w: what it wrote may be committed without the run's SUCCESS, or gone; leave commit and rollback of handlers.Tx(ctx) to the bus. The handler %s", store.ErrEnded, how))
}

// split separates the error of a collision from any other error.
func split(err error) (failed, collided error) {
	if sqldb.Collided(err) {
		return nil, err
	}
	return err, nil
}

// inDoubt asks the database whether a commit that returned an error was done. It returns
// nil if the run has succeeded. If the database does not answer, the run is due again;
// that end counts only if the commit does not.
func inDoubt(ctx context.Context, st *store.Store, delivery *handlers.Delivery, err error) error {
	if sqldb.Refused(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	was := delivery.Run()
	run, asked := st.Await(ctx, was.ID)
	switch {
	case asked != nil:
		failure := handlers.Failure(was.Handler, err)
		delivery.Abort(queue.Outcome{Status: store.Pending, Delay: time.Second, Refund: true, Failure: &failure})
		return errors.Join(err, asked)
	case run.Status == store.Success && queue.LeaseOf(run) == queue.LeaseOf(was):
		delivery.Committed()
		return nil
	default:
		return err
	}
}

// patience is how long the database may take to tell the result of a commit.
const patience = 30 * time.Second

// rollback does nothing to a transaction that has ended.
func rollback(tx *sqlx.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("roll back the handler's transaction: %w", err)
	}
	return nil
}
