// Package store keeps events, the runs of handlers on them and their failed
// attempts in the application's own database. It is the only package that
// knows SQL.
//
// There is one Store for every database; what truly differs between PostgreSQL
// and SQLite is in postgres.go and sqlite.go. Statements are written against
// the tables' default names, and turned into those of the configured schema
// by Store.sql. All methods are safe for concurrent use.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/migrations"
)

// Errors that callers branch on.
var (
	ErrNotFound    = errors.New("not found")
	ErrDuplicateID = errors.New("another event of the topic has this id")
	ErrDone        = errors.New("the run has ended already")
	ErrLeaseLost   = errors.New("the run was given to another meanwhile")
)

// Store is the record in one schema of one database.
type Store struct {
	db         *pool
	kind       dialect.Kind
	dialect    sqlDialect
	schema     string
	statements sync.Map // written → qualified

	gate      chan struct{} // of capacity one: SQLite's writers of this store take turns
	long      chan struct{} // likewise, before gate: transactions of the application's
	inside    goroutines    // in a transaction that excludes all others
	impatient bool          // SQLite, and connections of the pool have no busy timeout
	advice    string

	prepares bool
	highest  atomic.Int64 // run id seen
	prepared sync.Map     // written → *preparation
}

// sqlDialect is what PostgreSQL and SQLite do differently on the way of an
// event.
type sqlDialect interface {
	// insert returns the statement that writes the events and a run for each of
	// their topics' subscriptions, and inserted reads what it returns. With
	// likelyNew it may fail if an event is known.
	insert(events []Event, lease LeaseOnInsert, likelyNew bool) (query string, args []any)
	inserted(s *Store, rows *sql.Rows, events []Event) (Inserted, error)
	// record writes the event unless it is there, and a run of the handler
	// leased to the instance. It returns sql.ErrNoRows and changes nothing
	// when the run is not to be had, and a *takenError when the id is another
	// event's: see Store.Record.
	record(ctx context.Context, s *Store, e Event, handler, instance string, again bool) (taken, error)
	// takeUp leases a run that there is to the instance, for another attempt. It
	// returns sql.ErrNoRows and changes nothing when the run is not to be had.
	takeUp(ctx context.Context, s *Store, e EventID, handler, instance string, again bool) (taken, error)
	// claim leases due runs to the instance, at most as many as wanted.
	claim(ctx context.Context, s *Store, by Claimant, wants []Want) ([]*Claimed, error)
	// end writes outcomes whose lease still holds, and returns those leases.
	end(ctx context.Context, s *Store, outcomes []Outcome) ([]Lease, error)
}

// New returns the store in schema ("" is "reprise") of a database, which must
// have been brought to this program's version by migrations.Up: a
// *migrations.VersionError says when it has not. The pool stays the caller's.
func New(ctx context.Context, db *sql.DB, schema string, options ...Option) (*Store, error) {
	s := &Store{prepares: true, gate: make(chan struct{}, 1), long: make(chan struct{}, 1)}
	for _, option := range options {
		option(s)
	}
	if err := Again(ctx, func() error { return s.open(ctx, db, schema) }); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, db *sql.DB, schema string) (err error) {
	if s.kind, err = dialect.Detect(ctx, db); err != nil {
		return err
	}
	if s.schema, err = dialect.Schema(schema); err != nil {
		return err
	}
	if err := migrations.Check(ctx, db, s.schema); err != nil {
		return err
	}
	if s.kind == dialect.SQLite {
		s.db = &pool{DB: sqlx.NewDb(db, "sqlite3"), store: s} // sqlx's name for its bind variables
		s.dialect = sqlite{}
		return s.inspect(ctx)
	}
	if err := checkSession(ctx, db); err != nil {
		return err
	}
	if err := readsTimes(ctx, db); err != nil {
		return err
	}
	s.db = &pool{DB: sqlx.NewDb(db, "postgres"), store: s}
	s.dialect = postgres{}
	return s.db.detectIsolation(ctx)
}

// checkSession reports settings in which the server takes what it is sent for
// something else. lib/pq sets client_encoding itself.
func checkSession(ctx context.Context, db *sql.DB) error {
	var encoding, nulls, role string
	if err := db.QueryRowContext(ctx, `SELECT current_setting('client_encoding'), current_setting('array_nulls'), current_setting('session_replication_role')`).Scan(&encoding, &nulls, &role); err != nil {
		return err
	}
	switch {
	case encoding != "UTF8":
		return fmt.Errorf("client_encoding of the connection is %s: want UTF8: add client_encoding=UTF8 to the database URL, or RESET it for the role and the database", encoding)
	case nulls != "on":
		return fmt.Errorf("array_nulls of the connection is %s: want on: RESET it for the role and the database", nulls)
	case role == "replica": // no trigger fires, such as those that count failures, and no foreign key is checked
		return errors.New("session_replication_role of the connection is replica: want origin: RESET it for the role and the database")
	}
	return nil
}

// readsTimes reports a driver that cannot read the times of its connection: one
// that gets them as text, in the server's DateStyle, and knows only ISO.
func readsTimes(ctx context.Context, db *sql.DB) error {
	var now time.Time
	err := db.QueryRowContext(ctx, `SELECT now()`).Scan(&now)
	if err == nil || sqlState(err) != "" || ctx.Err() != nil {
		return err
	}
	var style string
	if show := db.QueryRowContext(ctx, `SHOW DateStyle`).Scan(&style); show != nil {
		return show
	}
	return fmt.Errorf("read a time in the DateStyle %q of the connection: %w: the driver wants ISO: add datestyle=ISO to the database URL", style, err)
}

// DB returns the pool that the store was made with.
func (s *Store) DB() *sqlx.DB { return s.db.DB }

// OneWriter says whether the database lets one transaction write at a time, as SQLite
// does: a transaction that has written keeps everybody else from writing until it
// ends, no row is locked by itself, and every transaction is serializable.
func (s *Store) OneWriter() bool { return s.kind == dialect.SQLite }

// Schema returns the schema of the tables, or on SQLite their prefix.
func (s *Store) Schema() string { return s.schema }

var nowPlus = regexp.MustCompile(`now\(([^()]+)\)`)

// sql turns a statement as it is written in this package into one for the
// store's database: reprise.events is the table in the configured schema,
// now() the database's clock, and now($1), or of another
// expression without parentheses, that many seconds after it.
func (s *Store) sql(written string) string {
	if q, ok := s.statements.Load(written); ok {
		return q.(string)
	}
	q := s.compose(written)
	s.statements.Store(written, q)
	return q
}

// compose is sql for a statement whose text depends on its input, and which is
// therefore not kept.
func (s *Store) compose(written string) string {
	q := s.kind.Qualify(s.schema, written)
	if s.kind == dialect.SQLite {
		q = nowPlus.ReplaceAllString(q, `strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ($1) || ' seconds')`)
		q = strings.ReplaceAll(q, `now()`, `strftime('%Y-%m-%dT%H:%M:%fZ', 'now')`)
		q = strings.ReplaceAll(q, `strpos(`, `instr(`)
		q = strings.ReplaceAll(q, `least(`, `min(`)
		q = strings.ReplaceAll(q, `greatest(`, `max(`)
		q = strings.ReplaceAll(q, ` FOR UPDATE OF v SKIP LOCKED`, ``)
		q = strings.ReplaceAll(q, ` FOR UPDATE SKIP LOCKED`, ``)
		q = strings.ReplaceAll(q, ` FOR UPDATE`, ``)
	} else {
		q = nowPlus.ReplaceAllString(q, `(now() + ($1)::float8 * interval '1 second')`)
	}
	return q
}

// inTx runs f in a READ COMMITTED transaction, which is committed unless f fails.
// What the database refuses because of others at work at the same time is tried
// again: f then runs again from its beginning, and must set whatever it sets
// anew.
func (s *Store) inTx(ctx context.Context, f func(tx *sqlx.Tx) error) error {
	if s.inside.here() {
		return ErrWaitsForItself
	}
	return Again(ctx, func() error {
		return s.inTurn(ctx, func() error { return s.inTxOnce(ctx, f) })
	})
}

func (s *Store) inTxOnce(ctx context.Context, f func(tx *sqlx.Tx) error) (err error) {
	tx, err := s.begin(ctx, s.TxOptions())
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

// TxOptions are those of a transaction of Reprise's own: READ COMMITTED on
// PostgreSQL, whatever the database's default. SQLite has one isolation level.
func (s *Store) TxOptions() *sql.TxOptions {
	if s.kind == dialect.SQLite {
		return nil
	}
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
}
