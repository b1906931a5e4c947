package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Option changes what New returns.
type Option func(*Store)

// Unprepared does without prepared statements, for a transaction pooler that
// does not support them.
func Unprepared() Option { return func(s *Store) { s.prepares = false } }

// The insert, on which publishers wait, is prepared on PostgreSQL: that saves
// planning it each time, and lib/pq a round trip. Claims and ends are not: a
// plan that is made once for all is made while the tables are small, and then
// reads them whole when they are large.

// stmt returns the prepared form of a statement, or nil to do without.
func (s *Store) stmt(ctx context.Context, query string) (*sqlx.Stmt, error) {
	if !s.prepares || s.kind != dialect.Postgres {
		return nil, nil
	}
	if kept, ok := s.prepared.Load(query); ok {
		return kept.(*sqlx.Stmt), nil
	}
	made, err := s.db.PreparexContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if kept, other := s.prepared.LoadOrStore(query, made); other {
		return kept.(*sqlx.Stmt), made.Close()
	}
	return made, nil
}

// QueryPrepared runs a statement on q, prepared where q is the store's pool.
func (s *Store) QueryPrepared(ctx context.Context, q Queryer, query string, args ...any) (*sql.Rows, error) {
	if db, ok := q.(*sqlx.DB); !ok || db != s.db {
		return q.QueryContext(ctx, query, args...)
	}
	stmt, err := s.stmt(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case stmt == nil:
		return s.db.QueryContext(ctx, query, args...)
	default:
		return stmt.QueryContext(ctx, args...)
	}
}

// Refused says whether the database itself refused a statement, which then has
// had no effect, as opposed to an error that leaves it open.
func Refused(err error) bool {
	var (
		postgres interface{ SQLState() string } // of lib/pq and pgx
		sqlite   interface{ Code() int }        // of modernc.org/sqlite
	)
	switch {
	case errors.As(err, &postgres):
		return true
	case errors.As(err, &sqlite):
		return true
	default:
		return errors.Is(err, ErrDuplicateID) || errors.Is(err, sql.ErrTxDone) || errors.Is(err, sql.ErrConnDone)
	}
}
