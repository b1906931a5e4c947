package sqldb

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// ErrEnded is returned for a transaction that the application's code has ended itself,
// by a method or by SQL. Its writes are committed or gone, and nothing can be added.
var ErrEnded = errors.New("the code that was given the transaction has committed it or rolled it back itself")

// Mark distinguishes a transaction from any other on the same connection. On PostgreSQL
// it is the start of the transaction, in microseconds; on SQLite it is a savepoint.
type Mark int64

const (
	// BeganAt is the SQL expression for the Mark of the current transaction on
	// PostgreSQL.
	BeganAt       = `CAST(extract(epoch FROM now()) * 1000000 AS bigint)`
	markSavepoint = `reprise_began`
)

// Mark marks a transaction of Begin before other code gets it.
func (d *DB) Mark(ctx context.Context, tx *sqlx.Tx) (m Mark, err error) {
	if d.kind == dialect.SQLite {
		_, err = tx.ExecContext(ctx, `SAVEPOINT `+markSavepoint)
		return 0, err
	}
	err = tx.GetContext(ctx, &m, `SELECT `+BeganAt)
	return m, err
}

// Ended returns ErrEnded if tx is no longer the transaction that was marked. It returns
// nil if that is unknown: the transaction is aborted, its context has ended, or its
// connection is lost. It may be called once.
func (d *DB) Ended(ctx context.Context, tx *sqlx.Tx, m Mark) error {
	if d.kind == dialect.SQLite {
		_, err := tx.ExecContext(ctx, `RELEASE `+markSavepoint)
		code, ours := dialect.ResultCode(err)
		return EndedIf(ctx, errors.Is(err, sql.ErrTxDone) || ours && code&0xff == 1) // no such savepoint
	}
	var now Mark
	err := tx.GetContext(ctx, &now, `SELECT `+BeganAt)
	return EndedIf(ctx, errors.Is(err, sql.ErrTxDone) || err == nil && now != m)
}

// Over is Ended for a transaction without a mark. It does not notice a transaction that
// was ended and followed by another. Roll back a transaction for which it returns
// ErrEnded.
func (d *DB) Over(ctx context.Context, tx *sqlx.Tx) error {
	if d.kind == dialect.SQLite {
		_, err := tx.ExecContext(ctx, `BEGIN`) // fails in a transaction
		return EndedIf(ctx, err == nil || errors.Is(err, sql.ErrTxDone))
	}
	_, err := tx.ExecContext(ctx, `SAVEPOINT `+markSavepoint)
	return EndedIf(ctx, errors.Is(err, sql.ErrTxDone) || State(err) == "25P01") // no transaction is open
}

// EndedIf returns ErrEnded if ended is true and ctx has not ended. When ctx has ended,
// database/sql has rolled the transaction back.
func EndedIf(ctx context.Context, ended bool) error {
	if ended && ctx.Err() == nil {
		return ErrEnded
	}
	return nil
}
