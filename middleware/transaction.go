package middleware

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

// Transaction gives the handler a transaction on the store's database, which
// handlers.Tx finds in its context. It commits together with the run's SUCCESS
// when the handler returns nil, and is rolled back otherwise: also when the
// run was given to another meanwhile, so that what the handler wrote through it
// happened exactly once. It belongs inside Record and innermost, around the
// handler alone.
//
// A handler that returns messages to publish is refused, since the router would
// publish them outside the transaction: publish with bus.PublishTx, or
// pubsub.PublisherTx.
func Transaction(st *store.Store) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) (produced []*message.Message, err error) {
			whole := msg.Context()
			delivery, ok := handlers.DeliveryFrom(whole)
			if !ok {
				return nil, errors.New("transaction: the message carries no run: put middleware.Record before middleware.Transaction")
			}
			tx, err := st.DB().BeginTxx(whole, nil)
			if err != nil {
				return nil, fmt.Errorf("begin the handler's transaction: %w", err)
			}
			done := false
			defer func() {
				msg.SetContext(whole)
				if !done { // also when the handler panics
					err = errors.Join(err, rollback(tx))
				}
			}()
			msg.SetContext(handlers.WithTx(whole, tx))
			produced, err = next(msg)
			switch {
			case err != nil:
				return nil, err
			case len(produced) > 0:
				return nil, handlers.Permanent(errors.New("a transactional handler returned messages to publish: publish them through its transaction"))
			}
			if err := st.Succeed(whole, tx, delivery.Run().Lease()); err != nil {
				return nil, err
			}
			if err := tx.Commit(); err != nil {
				return nil, inDoubt(whole, st, delivery, fmt.Errorf("commit the handler's transaction: %w", err))
			}
			done = true
			delivery.Committed()
			return nil, nil
		}
	}
}

// inDoubt asks the database what became of a commit that came back with an
// error, and returns nil when the run has succeeded. If it does not answer, the
// run is due again, which counts only if the commit does not.
func inDoubt(ctx context.Context, st *store.Store, delivery *handlers.Delivery, err error) error {
	if store.Refused(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	was := delivery.Run()
	run, asked := st.Await(ctx, was.ID)
	switch {
	case asked != nil:
		failure := handlers.Failure(was.Handler, err)
		delivery.Abort(store.Outcome{Status: store.Pending, Delay: time.Second, Refund: true, Failure: &failure})
		return errors.Join(err, asked)
	case run.Status == store.Success && run.Lease() == was.Lease():
		delivery.Committed()
		return nil
	default:
		return err
	}
}

// patience is how long the database may take to say what became of a commit.
const patience = 30 * time.Second

// rollback does nothing to a transaction that has ended.
func rollback(tx *sqlx.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("roll back the handler's transaction: %w", err)
	}
	return nil
}
