package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// TxOptions returns the options of Reprise's own transactions: READ COMMITTED on
// PostgreSQL, whatever the database's default. SQLite has one isolation level.
func (d *DB) TxOptions() *sql.TxOptions {
	if d.kind == dialect.SQLite {
		return nil
	}
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
}

// InTx runs f in a READ COMMITTED transaction, and commits it unless f fails. After a
// collision it retries: f runs again from its beginning, and must reset everything that
// it sets.
func (d *DB) InTx(ctx context.Context, f func(tx *sqlx.Tx) error) error {
	if d.exclusives.here() {
		return ErrWaitsForItself
	}
	return Again(ctx, func() error {
		return d.inTurn(ctx, func() error { return d.inTxOnce(ctx, f) })
	})
}

func (d *DB) inTxOnce(ctx context.Context, f func(tx *sqlx.Tx) error) (err error) {
	tx, err := d.begin(ctx, d.TxOptions())
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, rollback(tx))
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

// begin begins a transaction; on SQLite, with the write lock.
func (d *DB) begin(ctx context.Context, options *sql.TxOptions) (*sqlx.Tx, error) {
	tx, err := d.pool.BeginTxx(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	if d.kind != dialect.SQLite {
		return tx, nil
	}
	err = d.SetBusyTimeout(ctx, tx)
	if err == nil {
		_, err = tx.ExecContext(ctx, d.SQL(`UPDATE reprise.instances SET id = id WHERE false`))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin: %w", err), rollback(tx))
	}
	return tx, nil
}

// rollback rolls a transaction back unless it has ended.
func rollback(tx *sqlx.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// Begin begins a transaction in which the application's code runs. Call over when the
// transaction has ended. Without options, it has the database's default isolation
// level. On SQLite it has the write lock; Begin waits for it until ctx ends or 10 s
// have passed, and the error is then Collided.
//
// Until over is called, a call of the same goroutine fails with ErrWaitsForItself if it
// would wait for this transaction. This includes Begin.
func (d *DB) Begin(ctx context.Context, options *sql.TxOptions) (tx *sqlx.Tx, over func(), err error) {
	if d.WaitsForItself() {
		return nil, nil, ErrWaitsForItself
	}
	var pass func()
	if err := Again(ctx, func() (err error) {
		if pass, err = d.takeLongTurn(ctx); err != nil {
			return err
		}
		if tx, err = d.begin(ctx, options); err != nil {
			pass()
		}
		return err
	}); err != nil {
		return nil, nil, err
	}
	leave := func() {}
	if d.excludes() {
		leave = d.exclusives.enter()
	}
	// When ctx ends, database/sql rolls the transaction back, even if the code ignores
	// ctx.
	stop := context.AfterFunc(ctx, pass)
	return tx, func() { stop(); pass(); leave() }, nil
}

// excludes reports whether an open transaction prevents all other writes.
func (d *DB) excludes() bool {
	return d.kind == dialect.SQLite || d.pool.Stats().MaxOpenConnections == 1
}

// ErrWaitsForItself is returned by a call that would wait for a transaction that its
// own goroutine has open.
var ErrWaitsForItself = errors.New("this goroutine has a transaction open that keeps everything else from being written, and would wait for itself: use that transaction; nothing was written")

// WaitsForItself reports whether the calling goroutine has a transaction of Begin open
// for which its other writes would wait. It does not detect waiting by way of another
// goroutine.
func (d *DB) WaitsForItself() bool { return d.exclusives.here() }

// Aborted reports whether PostgreSQL accepts no more statements in the transaction
// because one has failed. On SQLite, a failed statement ends no transaction.
func (d *DB) Aborted(ctx context.Context, tx Execer) bool {
	if d.kind == dialect.SQLite {
		return false
	}
	_, err := tx.ExecContext(ctx, `SELECT 1`)
	return errors.Is(err, pq.ErrInFailedTransaction) || State(err) == "25P02"
}
