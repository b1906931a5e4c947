// Package store is the record: events, the runs of handlers on them and their failed
// attempts, as they stand in the application's own database, and what operators have
// done. It has the types, the filters and what reads them; who writes them is package
// bus, middleware and replay. All methods are safe for concurrent use.
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

// Store is the record in one schema of one database.
type Store struct {
	db *sqldb.DB
}

// Option changes what New returns.
type Option = sqldb.Option

// Unprepared does without prepared statements, for a transaction pooler that
// does not support them.
func Unprepared() Option { return sqldb.Unprepared() }

// New returns the store in schema ("" is "reprise") of a database, which must
// have been brought to this program's version by migrations.Up: a
// *migrations.VersionError says when it has not. The pool stays the caller's.
func New(ctx context.Context, db *sql.DB, schema string, options ...Option) (*Store, error) {
	opened, err := sqldb.Open(ctx, db, schema, options...)
	if err != nil {
		return nil, err
	}
	return &Store{db: opened}, nil
}

// DB returns the pool that the store was made with.
func (s *Store) DB() *sqlx.DB { return s.db.Pool() }

// Database is how the other packages of Reprise reach the tables.
func (s *Store) Database() *sqldb.DB { return s.db }

// Schema returns the schema of the tables, or on SQLite their prefix.
func (s *Store) Schema() string { return s.db.Schema() }

// Again calls f until it succeeds, or fails for a reason other than others at work at
// the same time, such as a serialization failure, a deadlock or SQLITE_BUSY: 8 times
// at most, or on SQLite for 10 s. It returns the error of the last call. f must set
// whatever it sets anew.
func Again(ctx context.Context, f func() error) error { return sqldb.Again(ctx, f) }
