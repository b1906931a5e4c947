package sqldb

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// ErrEnded is the error of a transaction that the application's code has ended
// itself, by a method or by SQL: what it wrote there is committed or gone, and
// nothing can be added to it.
var ErrEnded = errors.New("the code that was given the transaction has committed it or rolled it back itself")

// Mark tells a transaction from any other on the same connection. On PostgreSQL
// it is when the transaction began, in microseconds; on SQLite a savepoint.
type Mark int64

const (
	// BeganAt is the Mark of a statement's own transaction on PostgreSQL.
	BeganAt       = `CAST(extract(epoch FROM now()) * 1000000 AS bigint)`
	markSavepoint = `reprise_began`
)

// Mark marks a transaction of Begin, before other code gets it.
func (d *DB) Mark(ctx context.Context, tx *sqlx.Tx) (m Mark, err error) {
	if d.kind == dialect.SQLite {
		_, err = tx.ExecContext(ctx, `SAVEPOINT `+markSavepoint)
		return 0, err
	}
	err = tx.GetContext(ctx, &m, `SELECT `+BeganAt)
	return m, err
}

// Ended returns ErrEnded when tx is no longer the transaction that was marked.
// Where that cannot be told it returns nil: the transaction is aborted, its
// context has ended, or its connection is lost. It may be called once.
func (d *DB) Ended(ctx context.Context, tx *sqlx.Tx, m Mark) error {
	if d.kind == dialect.SQLite {
		_, err := tx.ExecContext(ctx, `RELEASE `+markSavepoint)
		code, ours := dialect.ResultCode(err)
		return EndedIf(ctx, errors.Is(err, sql.ErrTxDone) || ours && code&0xff == 1) // there is no such savepoint
	}
	var now Mark
	err := tx.GetContext(ctx, &now, `SELECT `+BeganAt)
	return EndedIf(ctx, errors.Is(err, sql.ErrTxDone) || err == nil && now != m)
}

// Over is Ended for a transaction without a mark: one that was ended and followed
// by another is not seen. A transaction of which it returns ErrEnded is to be rolled
// back.
func (d *DB) Over(ctx context.Context, tx *sqlx.Tx) error {
	if d.kind == dialect.SQLite {
		_, err := tx.ExecContext(ctx, `BEGIN`) // which fails in a transaction
		return EndedIf(ctx, err == nil || errors.Is(err, sql.ErrTxDone))
	}
	_, err := tx.ExecContext(ctx, `SAVEPOINT `+markSavepoint)
	return EndedIf(ctx, errors.Is(err, sql.ErrTxDone) || State(err) == "25P01") // no transaction is open
}

// EndedIf returns ErrEnded if that is so. A transaction whose context has ended was rolled back
// by database/sql.
func EndedIf(ctx context.Context, ended bool) error {
	if ended && ctx.Err() == nil {
		return ErrEnded
	}
	return nil
}
