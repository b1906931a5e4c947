package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/bits"
	"sync"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Option changes what New returns.
type Option func(*Store)

// Unprepared does without prepared statements, for a transaction pooler that
// does not support them.
func Unprepared() Option { return func(s *Store) { s.prepares = false } }

// The statements on an event's way are prepared on PostgreSQL: that saves
// planning them each time, and lib/pq a round trip. A plan that is made once
// for all would be made while the tables are small, and read them whole when
// they are large. So a statement is prepared anew whenever the runs have become
// twice as many, as far as their ids tell.
type preparedStmt struct {
	magnitude int // of the highest run id when it was prepared
	stmt      *sqlx.Stmt

	using  sync.RWMutex
	closed bool // using is held
}

// saw is told of a run's id.
func (s *Store) saw(run int64) {
	for {
		highest := s.highest.Load()
		if run <= highest || s.highest.CompareAndSwap(highest, run) {
			return
		}
	}
}

// prepare returns the prepared form of a statement, for one use: its lock using
// is held for reading. It returns nil where statements are not prepared.
func (s *Store) prepare(ctx context.Context, query string) (*preparedStmt, error) {
	if !s.prepares || s.kind != dialect.Postgres {
		return nil, nil
	}
	for {
		p, outgrown, err := s.current(ctx, query)
		if outgrown != nil {
			outgrown.using.Lock() // whoever uses it is done
			outgrown.closed = true
			err = errors.Join(err, outgrown.stmt.Close())
			outgrown.using.Unlock()
		}
		if err != nil {
			return nil, err
		}
		p.using.RLock()
		if !p.closed {
			return p, nil
		}
		p.using.RUnlock() // it was outgrown between the two locks
	}
}

// current returns the statement that is prepared for the size the tables have,
// and the one that it replaces.
func (s *Store) current(ctx context.Context, query string) (current, outgrown *preparedStmt, err error) {
	magnitude := bits.Len64(uint64(s.highest.Load()))
	s.preparing.Lock()
	defer s.preparing.Unlock()
	kept := s.prepared[query]
	if kept != nil && kept.magnitude >= magnitude {
		return kept, nil, nil
	}
	stmt, err := s.db.PreparexContext(ctx, query)
	if err != nil {
		return nil, nil, err
	}
	s.prepared[query] = &preparedStmt{magnitude: magnitude, stmt: stmt}
	return s.prepared[query], kept, nil
}

// QueryPrepared runs a statement on q, prepared where q is the store's pool.
// Refused knows of its error how often the statement was sent.
func (s *Store) QueryPrepared(ctx context.Context, q Queryer, query string, args ...any) (*sql.Rows, error) {
	times := 1
	if len(args) > 0 {
		if v, ok := args[0].(driver.Valuer); ok { // as on PostgreSQL
			times = 0
			args = append([]any{sending{v, &times}}, args[1:]...)
		}
	}
	rows, err := s.queryPrepared(ctx, q, query, args...)
	if err != nil {
		return nil, &sentError{err, times}
	}
	return rows, nil
}

// sending is an argument that counts how often it is sent: database/sql asks
// for its value when it has a connection, and sends a statement again, unasked,
// whose connection was lost.
type sending struct {
	driver.Valuer
	times *int
}

func (s sending) Value() (driver.Value, error) {
	*s.times++
	return s.Valuer.Value()
}

func (s *Store) queryPrepared(ctx context.Context, q Queryer, query string, args ...any) (*sql.Rows, error) {
	if db, ok := q.(*sqlx.DB); !ok || db != s.db {
		return q.QueryContext(ctx, query, args...)
	}
	p, err := s.prepare(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return s.db.QueryContext(ctx, query, args...)
	default:
		defer p.using.RUnlock()
		return p.stmt.QueryContext(ctx, args...)
	}
}

// execPrepared is QueryPrepared for a statement that returns no rows.
func (s *Store) execPrepared(ctx context.Context, q Execer, query string, args ...any) (sql.Result, error) {
	if db, ok := q.(*sqlx.DB); !ok || db != s.db {
		return q.ExecContext(ctx, query, args...)
	}
	p, err := s.prepare(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return s.db.ExecContext(ctx, query, args...)
	default:
		defer p.using.RUnlock()
		return p.stmt.ExecContext(ctx, args...)
	}
}
