package reprisetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/handlers"
)

// transaction is middleware.Transaction without a run in the database.
func (s *settings) transaction(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		whole := msg.Context()
		defer msg.SetContext(whole)
		return nil, s.begin(whole, func(tx *sqlx.Tx) error {
			msg.SetContext(handlers.WithTx(whole, tx))
			_, err := next(msg)
			return err
		})
	}
}

// inTx runs f in a transaction, which is committed when f returns nil and
// rolled back otherwise, also when f panics.
func (s *settings) inTx(ctx context.Context, f func(tx *sqlx.Tx) error) (err error) {
	tx, err := s.db.BeginTxx(ctx, nil)
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
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

var errWaitForItself = errors.New("reprisetest: a transactional handler on SQLite holds the one connection that can write, and a bus.Bus would wait for it: publish in its transaction, PublishTx(ctx, tx, …) with the tx of handlers.Tx(ctx)")

// wouldWaitForItself says whether ctx is that of a handler whose transaction
// keeps everything else from being written.
func (s *settings) wouldWaitForItself(ctx context.Context) bool {
	_, transactional := handlers.Tx(ctx)
	return transactional && s.db != nil && s.db.DriverName() == sqlite
}
