package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"reflect"
	"sync/atomic"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// pool is the application's pool as Reprise's own statements use it, each
// committed by itself: READ COMMITTED whatever the database's default, and tried
// again when the database refused it for others at work or for a prepared
// statement that it no longer knows. Rows are read inside, by GetContext,
// SelectContext and Store.Query: the error of a statement may come with them.
type pool struct {
	*sqlx.DB
	store *Store

	// isolated says that the default isolation is another: each statement then
	// takes a transaction that says its own.
	isolated atomic.Bool
}

// detectIsolation finds out about the default. Where a connection's own is another,
// the first serialization failure tells.
func (p *pool) detectIsolation(ctx context.Context) error {
	if p.store.kind != dialect.Postgres {
		return nil
	}
	var isolation string
	if err := p.DB.GetContext(ctx, &isolation, `SELECT current_setting('default_transaction_isolation')`); err != nil {
		return err
	}
	p.isolated.Store(isolation != "read committed" && isolation != "read uncommitted")
	return nil
}

func (p *pool) GetContext(ctx context.Context, into any, query string, args ...any) error {
	return p.run(ctx, p.store.read, func(q sqlx.ExtContext) error { return sqlx.GetContext(ctx, q, into, query, args...) })
}

func (p *pool) SelectContext(ctx context.Context, into any, query string, args ...any) error {
	return p.run(ctx, p.store.read, func(q sqlx.ExtContext) error {
		reflect.ValueOf(into).Elem().SetZero() // or another try would append
		return sqlx.SelectContext(ctx, q, into, query, args...)
	})
}

func (p *pool) ExecContext(ctx context.Context, query string, args ...any) (result sql.Result, err error) {
	err = p.run(ctx, p.store.write, func(q sqlx.ExtContext) (err error) {
		result, err = q.ExecContext(ctx, query, args...)
		return err
	})
	return result, err
}

// run calls f, by way of read or write, with what it is to run its one statement on.
func (p *pool) run(ctx context.Context, again func(context.Context, func() error) error, f func(q sqlx.ExtContext) error) error {
	return again(ctx, func() error {
		if p.isolated.Load() {
			return p.inTx(ctx, f)
		}
		return p.noticed(f(p.DB))
	})
}

func (p *pool) inTx(ctx context.Context, f func(q sqlx.ExtContext) error) error {
	tx, err := p.BeginTxx(ctx, p.store.TxOptions())
	if err != nil {
		return err
	}
	return commit(tx, f(tx))
}

// on is run for a statement on a connection that the caller keeps.
func (p *pool) on(ctx context.Context, conn *sql.Conn, f func(q Queryer) error) error {
	return Again(ctx, func() error {
		if !p.isolated.Load() {
			return p.noticed(f(conn))
		}
		tx, err := conn.BeginTx(ctx, p.store.TxOptions())
		if err != nil {
			return err
		}
		return commit(tx, f(tx))
	})
}

// commit ends a transaction: by a rollback where there is an error.
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

// noticed draws the conclusion from a serialization failure of a statement by
// itself, which READ COMMITTED does not know.
func (p *pool) noticed(err error) error {
	if sqlState(err) == serializationFailure {
		p.isolated.Store(true)
	}
	return err
}

const serializationFailure = "40001"

// Query runs a statement on q, and scan reads its rows. On the store's own pool
// the statement is prepared, where that can be, and may be tried again: scan must
// set whatever it sets anew. Refused knows of the error how often the statement
// was sent.
func (s *Store) Query(ctx context.Context, q Queryer, query string, args []any, scan func(rows *sql.Rows) error) error {
	_, err := s.query(ctx, q, query, args, scan)
	return err
}

// query tells how often the statement was sent, of which one without an error is
// the last.
func (s *Store) query(ctx context.Context, q Queryer, query string, args []any, scan func(rows *sql.Rows) error) (times int, err error) {
	ask := func(q Queryer) (err error) {
		rows, err := q.QueryContext(ctx, query, counted(args, &times)...)
		if err == nil {
			if err = scan(rows); err == nil {
				err = rows.Err()
			}
			err = errors.Join(err, rows.Close())
		}
		if err != nil {
			return &sentError{err, times}
		}
		return nil
	}
	if !s.owns(q) {
		err = s.within(ctx, q, func() error { return ask(q) })
		return times, err
	}
	err = s.write(ctx, func() error {
		if s.db.isolated.Load() {
			return s.db.inTx(ctx, func(tx sqlx.ExtContext) error { return ask(tx) })
		}
		p, err := s.prepare(ctx, query)
		switch {
		case err != nil:
			times = 0
			return &sentError{err, 0}
		case p == nil:
			return s.db.noticed(ask(s.db.DB))
		}
		if err = ask(onlyQuery{p.stmt}); outdated(err) {
			s.drop(query, p)
		}
		return s.db.noticed(err)
	})
	return times, s.poolerError(err)
}

// exec is Query for a statement that returns no rows. It returns how many it
// changed.
func (s *Store) exec(ctx context.Context, q sqlx.ExtContext, query string, args ...any) (n int64, err error) {
	ask := func(result sql.Result, err error) error {
		if err == nil {
			n, err = result.RowsAffected()
		}
		return err
	}
	if !s.owns(q) {
		return n, ask(q.ExecContext(ctx, query, args...))
	}
	err = s.db.run(ctx, s.write, func(q sqlx.ExtContext) error {
		if q != s.db.DB {
			return ask(q.ExecContext(ctx, query, args...))
		}
		p, err := s.prepare(ctx, query)
		switch {
		case err != nil:
			return err
		case p == nil:
			return ask(q.ExecContext(ctx, query, args...))
		}
		if err = ask(p.stmt.ExecContext(ctx, args...)); outdated(err) {
			s.drop(query, p)
		}
		return err
	})
	return n, s.poolerError(err)
}

// queryRow reads the one row of a statement that is not prepared.
func (s *Store) queryRow(ctx context.Context, q Queryer, query string, args []any, into ...any) error {
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
	if !s.owns(q) {
		return s.within(ctx, q, func() error { return ask(q) })
	}
	return s.db.run(ctx, s.write, func(q sqlx.ExtContext) error { return ask(q) })
}

// owns says whether q is the store's pool.
func (s *Store) owns(q any) bool {
	switch q := q.(type) {
	case *pool:
		return q == s.db
	case *sqlx.DB:
		return q == s.db.DB
	}
	return false
}

// onlyQuery is a prepared statement, which knows its text.
type onlyQuery struct{ stmt *sqlx.Stmt }

func (o onlyQuery) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return o.stmt.QueryContext(ctx, args...)
}

// counted returns args, of which the first counts how often it is sent: database/sql
// asks for its value when it has a connection, and sends a statement again, unasked,
// whose connection was lost.
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
