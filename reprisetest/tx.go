package reprisetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// transaction is middleware.Transaction without a run in the database. It uses the given
// isolation level, and calls the handler again within the attempt when the database
// refuses the transaction because of concurrent ones.
func (s *settings) transaction(isolation sql.IsolationLevel) message.HandlerMiddleware {
	var options *sql.TxOptions
	if isolation != sql.LevelDefault && s.db.DriverName() != sqlite {
		options = &sql.TxOptions{Isolation: isolation}
	}
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			whole := msg.Context()
			defer msg.SetContext(whole)
			var failed error
			collided := store.Again(whole, func() error {
				failed = s.begin(whole, options, func(tx *sqlx.Tx) error {
					msg.SetContext(handlers.WithTx(whole, tx))
					_, err := next(msg)
					return err
				})
				if sqldb.Collided(failed) {
					return failed
				}
				return nil
			})
			if collided != nil {
				return nil, fmt.Errorf("%w: %w", handlers.Snooze(time.Second), collided)
			}
			return nil, failed
		}
	}
}

// inTx runs f in a transaction. It commits when f returns nil and rolls back otherwise,
// also when f panics.
func (s *settings) inTx(ctx context.Context, options *sql.TxOptions, f func(tx *sqlx.Tx) error) (err error) {
	tx, err := s.db.BeginTxx(ctx, options)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if undone := tx.Rollback(); undone != nil && !errors.Is(undone, sql.ErrTxDone) {
			err = errors.Join(err, undone)
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil { // Commit may not have seen it yet
		return fmt.Errorf("commit: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

var errWaitForItself = errors.New("reprisetest: a transactional handler on SQLite holds the one connection that can write, and a bus.Bus would wait for it: publish in its transaction, PublishTx(ctx, tx, …) with the tx of handlers.Tx(ctx)")

// wouldWaitForItself reports whether ctx is that of a handler whose transaction keeps
// everything else from being written.
func (s *settings) wouldWaitForItself(ctx context.Context) bool {
	_, transactional := handlers.Tx(ctx)
	return transactional && s.db != nil && s.db.DriverName() == sqlite
}
