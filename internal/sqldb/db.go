// Package sqldb is how Reprise's statements reach the application's database: on
// its pool or in its transactions, with the tables' configured names, prepared where
// that helps, and again where the database refused them only because others were at
// work. It judges the database's errors, by their codes.
package sqldb

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

// DB is one schema of a database, on the application's pool. All methods are safe
// for concurrent use.
type DB struct {
	pool   *sqlx.DB
	kind   dialect.Kind
	schema string

	written sync.Map // statement as it is written → as it is sent

	// isolated says that the default isolation is not READ COMMITTED: each
	// statement then takes a transaction that says its own.
	isolated atomic.Bool

	// PostgreSQL
	prepares bool
	highest  atomic.Int64 // run id that NoteRun was told of
	prepared sync.Map     // statement as it is sent → *preparation

	// SQLite
	turns      chan struct{} // of capacity one: the writers of this DB take turns
	longTurns  chan struct{} // likewise, before turns: transactions of the application's
	impatient  bool          // connections of the pool have no busy timeout
	advice     string
	exclusives goroutines // in a transaction that excludes all others
}

// Open returns the schema ("" is "reprise") of a database, which must have been
// brought to this program's version by migrations.Up: a *migrations.VersionError
// says when it has not. The pool stays the caller's.
func Open(ctx context.Context, pool *sql.DB, schema string, options ...Option) (*DB, error) {
	d := &DB{prepares: true, turns: make(chan struct{}, 1), longTurns: make(chan struct{}, 1)}
	for _, option := range options {
		option(d)
	}
	if err := Again(ctx, func() error { return d.open(ctx, pool, schema) }); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *DB) open(ctx context.Context, pool *sql.DB, schema string) (err error) {
	if d.kind, err = dialect.Detect(ctx, pool); err != nil {
		return err
	}
	if d.schema, err = dialect.Schema(schema); err != nil {
		return err
	}
	if err := migrations.Check(ctx, pool, d.schema); err != nil {
		return err
	}
	if d.kind == dialect.SQLite {
		d.pool = sqlx.NewDb(pool, "sqlite3") // sqlx's name for its bind variables
		return d.inspect(ctx)
	}
	d.pool = sqlx.NewDb(pool, "postgres")
	if err := checkSession(ctx, pool); err != nil {
		return err
	}
	if err := checkTimes(ctx, pool); err != nil {
		return err
	}
	return d.detectIsolation(ctx)
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

// checkTimes reports a driver that cannot read the times of its connection: one
// that gets them as text, in the server's DateStyle, and knows only ISO.
func checkTimes(ctx context.Context, db *sql.DB) error {
	var now time.Time
	err := db.QueryRowContext(ctx, `SELECT now()`).Scan(&now)
	if err == nil || State(err) != "" || ctx.Err() != nil {
		return err
	}
	var style string
	if show := db.QueryRowContext(ctx, `SHOW DateStyle`).Scan(&style); show != nil {
		return show
	}
	return fmt.Errorf("read a time in the DateStyle %q of the connection: %w: the driver wants ISO: add datestyle=ISO to the database URL", style, err)
}

// detectIsolation asks for the database's default. Where a connection's own is
// another, its first serialization failure tells.
func (d *DB) detectIsolation(ctx context.Context) error {
	var isolation string
	if err := d.pool.GetContext(ctx, &isolation, `SELECT current_setting('default_transaction_isolation')`); err != nil {
		return err
	}
	d.isolated.Store(isolation != "read committed" && isolation != "read uncommitted")
	return nil
}

// Pool returns the pool that the DB was opened with.
func (d *DB) Pool() *sqlx.DB { return d.pool }

// Kind says which database it is.
func (d *DB) Kind() dialect.Kind { return d.kind }

// Schema returns the schema of the tables, or on SQLite their prefix.
func (d *DB) Schema() string { return d.schema }

// OneWriter says whether the database lets one transaction write at a time, as SQLite
// does: a transaction that has written keeps everybody else from writing until it
// ends, no row is locked by itself, and every transaction is serializable.
func (d *DB) OneWriter() bool { return d.kind == dialect.SQLite }

var nowPlus = regexp.MustCompile(`now\(([^()]+)\)`)

// SQL turns a statement as it is written into one for this database: reprise.events
// is the table in the configured schema, now() the database's clock, and now($1), or
// of another expression without parentheses, that many seconds after it.
func (d *DB) SQL(written string) string {
	if q, ok := d.written.Load(written); ok {
		return q.(string)
	}
	q := d.Compose(written)
	d.written.Store(written, q)
	return q
}

// Compose is SQL for a statement whose text depends on its input, and which is
// therefore not kept.
func (d *DB) Compose(written string) string {
	q := d.kind.Qualify(d.schema, written)
	if d.kind == dialect.SQLite {
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
