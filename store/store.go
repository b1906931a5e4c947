// Package store reads the record in the application's own database: events, the runs of
// handlers on them with their failed attempts, and the operations and actions of
// operators. It holds the types and the filters. Packages bus, middleware and replay
// write the record. All methods are safe for concurrent use.
package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Errors that callers branch on.
var (
	ErrNotFound       = errors.New("not found")
	ErrDuplicateID    = sqldb.NewRefusal("another event of the topic has this id")
	ErrDone           = errors.New("the run has ended already")
	ErrLeaseLost      = errors.New("the run was given to another meanwhile")
	ErrEnded          = sqldb.ErrEnded
	ErrWaitsForItself = sqldb.ErrWaitsForItself
)

// Store reads the record in one schema of one database.
type Store struct {
	db *sqldb.DB
}

// Option is an option of New.
type Option = sqldb.Option

// Unprepared turns prepared statements off. Use it behind a transaction pooler that
// does not support them.
func Unprepared() Option { return sqldb.Unprepared() }

// New returns the store in schema of a database; "" is "reprise". migrations.Up must
// have brought the tables to this program's version; otherwise the error is a
// *migrations.VersionError. New does not take over the pool: the caller closes it.
func New(ctx context.Context, db *sql.DB, schema string, options ...Option) (*Store, error) {
	opened, err := sqldb.Open(ctx, db, schema, options...)
	if err != nil {
		return nil, err
	}
	return &Store{db: opened}, nil
}

// DB returns the pool that was passed to New.
func (s *Store) DB() *sqlx.DB { return s.db.Pool() }

// Database returns the access to the tables that the other packages of Reprise use.
func (s *Store) Database() *sqldb.DB { return s.db }

// Schema returns the schema of the tables; on SQLite, the prefix of their names.
func (s *Store) Schema() string { return s.db.Schema() }

// Again calls f until it succeeds or fails for a reason other than concurrent work,
// such as a serialization failure, a deadlock or SQLITE_BUSY. It makes at most 8 calls;
// on SQLite, it retries for 10 s. It returns the error of the last call. f must reset
// everything that it sets.
func Again(ctx context.Context, f func() error) error { return sqldb.Again(ctx, f) }
