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
			if err := commit(whole, st, tx, delivery.Run()); err != nil {
				return nil, err
			}
			done = true
			delivery.Committed()
			return nil, nil
		}
	}
}

func commit(ctx context.Context, st *store.Store, tx *sqlx.Tx, run store.Run) error {
	if err := st.Succeed(ctx, tx, run.Lease()); err != nil {
		return err
	}
	err := tx.Commit()
	if err == nil || committed(ctx, st, run, err) {
		return nil
	}
	return fmt.Errorf("commit the handler's transaction: %w", err)
}

// committed asks the database what became of a commit whose answer was lost. If
// that is of no use, the run counts as failed here, and what the database has
// is what counts there.
func committed(ctx context.Context, st *store.Store, was store.Run, err error) bool {
	if store.Refused(err) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	run, err := st.Run(ctx, was.ID)
	return err == nil && run.Status == store.Success && run.Lease() == was.Lease()
}

// rollback does nothing to a transaction that has ended.
func rollback(tx *sqlx.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("roll back the handler's transaction: %w", err)
	}
	return nil
}
