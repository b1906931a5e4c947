package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"reflect"

	"github.com/jmoiron/sqlx"
)

// Queryer is a pool, a connection or a transaction.
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Execer is a pool, a connection or a transaction.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Each of Reprise's own statements commits by itself. It runs at READ COMMITTED, whatever
// the database's default. It is retried after a collision, or when the server no longer
// knows a prepared statement. GetContext, SelectContext and Query read the rows within a
// try, because the error of a statement may come with its rows.

// GetContext reads one row, like sqlx.DB.GetContext.
func (d *DB) GetContext(ctx context.Context, into any, query string, args ...any) error {
	return d.run(ctx, d.read, func(q sqlx.ExtContext) error { return sqlx.GetContext(ctx, q, into, query, args...) })
}

// SelectContext reads all rows, like sqlx.DB.SelectContext.
func (d *DB) SelectContext(ctx context.Context, into any, query string, args ...any) error {
	return d.run(ctx, d.read, func(q sqlx.ExtContext) error {
		reflect.ValueOf(into).Elem().SetZero() // else a retry would append
		return sqlx.SelectContext(ctx, q, into, query, args...)
	})
}

// ExecContext executes a statement, like sql.DB.ExecContext.
func (d *DB) ExecContext(ctx context.Context, query string, args ...any) (result sql.Result, err error) {
	err = d.run(ctx, d.write, func(q sqlx.ExtContext) (err error) {
		result, err = q.ExecContext(ctx, query, args...)
		return err
	})
	return result, err
}

// run calls f by way of read or write, with the pool or transaction for its one
// statement.
func (d *DB) run(ctx context.Context, again func(context.Context, func() error) error, f func(q sqlx.ExtContext) error) error {
	return again(ctx, func() error {
		if d.isolated.Load() {
			return d.single(ctx, f)
		}
		return d.noticed(f(d.pool))
	})
}

// single runs a statement in a transaction of its own.
func (d *DB) single(ctx context.Context, f func(q sqlx.ExtContext) error) error {
	tx, err := d.pool.BeginTxx(ctx, d.TxOptions())
	if err != nil {
		return err
	}
	return commit(tx, f(tx))
}

// OnConn calls f for a statement on a connection that the caller keeps.
func (d *DB) OnConn(ctx context.Context, conn *sql.Conn, f func(q Queryer) error) error {
	return Again(ctx, func() error {
		if !d.isolated.Load() {
			return d.noticed(f(conn))
		}
		tx, err := conn.BeginTx(ctx, d.TxOptions())
		if err != nil {
			return err
		}
		return commit(tx, f(tx))
	})
}

// commit commits a transaction, or rolls it back if there is an error.
func commit(tx interface {
	Commit() error
	Rollback() error
}, err error) error {
	if err == nil {
		return tx.Commit()
	}
	if rollback := tx.Rollback(); rollback != nil && !errors.Is(rollback, sql.ErrTxDone) {
		err = errors.Join(err, rollback)
	}
	return err
}

// noticed reacts to a serialization failure of a single statement. READ COMMITTED has
// no such failure, which shows that the default isolation is another.
func (d *DB) noticed(err error) error {
	if State(err) == serializationFailure {
		d.isolated.Store(true)
	}
	return err
}

const serializationFailure = "40001"

// Query runs a statement on q, and scan reads its rows. On the DB's own pool, the
// statement is prepared where possible and may be retried: scan must reset everything
// that it sets. The error contains how often the statement was sent, which Refused
// uses.
func (d *DB) Query(ctx context.Context, q Queryer, query string, args []any, scan func(rows *sql.Rows) error) error {
	_, err := d.QueryTimes(ctx, q, query, args, scan)
	return err
}

// QueryTimes is Query, and returns how often the statement was sent. Without an error,
// the last sending succeeded.
func (d *DB) QueryTimes(ctx context.Context, q Queryer, query string, args []any, scan func(rows *sql.Rows) error) (times int, err error) {
	ask := func(q Queryer) (err error) {
		rows, err := q.QueryContext(ctx, query, counted(args, &times)...)
		if err == nil {
			if err = scan(rows); err == nil {
				err = rows.Err()
			}
			err = errors.Join(err, rows.Close())
		}
		if err != nil {
			return &SentError{err, times}
		}
		return nil
	}
	if !d.owns(q) {
		err = d.within(ctx, q, func() error { return ask(q) })
		return times, err
	}
	err = d.write(ctx, func() error {
		if d.isolated.Load() {
			return d.single(ctx, func(tx sqlx.ExtContext) error { return ask(tx) })
		}
		p, err := d.prepare(ctx, query)
		switch {
		case err != nil:
			times = 0
			return &SentError{err, 0}
		case p == nil:
			return d.noticed(ask(d.pool))
		}
		if err = ask(onlyQuery{p.stmt}); outdated(err) {
			d.drop(query, p)
		}
		return d.noticed(err)
	})
	return times, d.poolerError(err)
}

// Change is Query for a statement that returns no rows. It returns the number of
// changed rows.
func (d *DB) Change(ctx context.Context, q sqlx.ExtContext, query string, args ...any) (n int64, err error) {
	ask := func(result sql.Result, err error) error {
		if err == nil {
			n, err = result.RowsAffected()
		}
		return err
	}
	if !d.owns(q) {
		return n, ask(q.ExecContext(ctx, query, args...))
	}
	err = d.run(ctx, d.write, func(q sqlx.ExtContext) error {
		if q != d.pool {
			return ask(q.ExecContext(ctx, query, args...))
		}
		p, err := d.prepare(ctx, query)
		switch {
		case err != nil:
			return err
		case p == nil:
			return ask(q.ExecContext(ctx, query, args...))
		}
		if err = ask(p.stmt.ExecContext(ctx, args...)); outdated(err) {
			d.drop(query, p)
		}
		return err
	})
	return n, d.poolerError(err)
}

// QueryRow reads the single row of a statement that is not prepared.
func (d *DB) QueryRow(ctx context.Context, q Queryer, query string, args []any, into ...any) error {
	ask := func(q Queryer) error {
		rows, err := q.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		if !rows.Next() {
			return errors.Join(rows.Err(), rows.Close(), sql.ErrNoRows)
		}
		return errors.Join(rows.Scan(into...), rows.Close(), rows.Err())
	}
	if !d.owns(q) {
		return d.within(ctx, q, func() error { return ask(q) })
	}
	return d.run(ctx, d.write, func(q sqlx.ExtContext) error { return ask(q) })
}

// owns reports whether q is the DB's pool.
func (d *DB) owns(q any) bool { return q == d.pool }

// onlyQuery is a prepared statement; it ignores the text that it is given.
type onlyQuery struct{ stmt *sqlx.Stmt }

func (o onlyQuery) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return o.stmt.QueryContext(ctx, args...)
}

// counted returns args with a first element that counts how often it is sent.
// database/sql asks for the element's value when it has a connection, and silently
// sends a statement again whose connection was lost.
func counted(args []any, times *int) []any {
	*times = 1
	if len(args) == 0 {
		return args
	}
	v, ok := args[0].(driver.Valuer) // as on PostgreSQL
	if !ok {
		return args
	}
	*times = 0
	return append([]any{sending{v, times}}, args[1:]...)
}

type sending struct {
	driver.Valuer
	times *int
}

func (s sending) Value() (driver.Value, error) {
	*s.times++
	return s.Valuer.Value()
}
