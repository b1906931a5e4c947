// Package sqldb executes Reprise's statements in the application's database: on its
// pool or in its transactions, with the configured table names. It prepares statements
// where that helps, and retries statements that the database refused only because of
// concurrent work. It classifies the database's errors by their codes.
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

// DB is one schema of a database, on the application's pool. All methods are safe for
// concurrent use.
type DB struct {
	pool   *sqlx.DB
	kind   dialect.Kind
	schema string

	written sync.Map // statement as written → statement as sent

	// isolated says that the default isolation is not READ COMMITTED. Each statement
	// then runs in a transaction that sets its own level.
	isolated atomic.Bool

	// PostgreSQL
	prepares bool
	highest  atomic.Int64 // highest run id that NoteRun was called with
	prepared sync.Map     // statement as sent → *preparation

	// SQLite
	turns      chan struct{} // of capacity 1: the writers of this DB take turns
	longTurns  chan struct{} // of capacity 1, taken before turns: transactions of the application
	impatient  bool          // the pool's connections have no busy timeout
	advice     string
	exclusives goroutines // goroutines in a transaction that excludes all others
}

// Open returns the schema of a database; "" is "reprise". migrations.Up must have
// brought it to this program's version; otherwise the error is a
// *migrations.VersionError. Open does not take over the pool.
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

// checkSession reports settings with which the server misreads what it is sent. lib/pq
// sets client_encoding itself.
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
	case role == "replica": // triggers do not fire, such as those that count failures, and foreign keys are not checked
		return errors.New("session_replication_role of the connection is replica: want origin: RESET it for the role and the database")
	}
	return nil
}

// checkTimes reports a driver that cannot read the times of its connection. Such a
// driver gets times as text in the server's DateStyle, and understands only ISO.
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

// detectIsolation reads the database's default. A connection with another default shows
// itself by its first serialization failure.
func (d *DB) detectIsolation(ctx context.Context) error {
	var isolation string
	if err := d.pool.GetContext(ctx, &isolation, `SELECT current_setting('default_transaction_isolation')`); err != nil {
		return err
	}
	d.isolated.Store(isolation != "read committed" && isolation != "read uncommitted")
	return nil
}

// Pool returns the pool that was passed to Open.
func (d *DB) Pool() *sqlx.DB { return d.pool }

// Kind returns the kind of database.
func (d *DB) Kind() dialect.Kind { return d.kind }

// Schema returns the schema of the tables; on SQLite, the prefix of their names.
func (d *DB) Schema() string { return d.schema }

// OneWriter reports whether the database lets one transaction write at a time, like
// SQLite: a transaction that has written excludes all other writers until it ends, rows
// are not locked, and every transaction is serializable.
func (d *DB) OneWriter() bool { return d.kind == dialect.SQLite }

var (
	nowPlus = regexp.MustCompile(`now\(([^()]+)\)`)
	anyOf   = regexp.MustCompile(`= ANY \((\$[0-9]+)::[a-z]+\[\]\)`)
	cast    = regexp.MustCompile(`(\$[0-9]+)::[a-z]+[0-9]?(?:\[\])?`)
)

// SQL translates a statement for this database. reprise.events becomes the table in the
// configured schema, now() the database's clock, and now(x) the time x seconds later,
// where x is an expression without parentheses. The result is kept.
//
// On SQLite, a list is a JSON array (see IDs and Texts): x = ANY ($1::bigint[]) becomes
// a search in the array. The cast of any other parameter, such as $1::json, is left
// out.
func (d *DB) SQL(written string) string {
	if q, ok := d.written.Load(written); ok {
		return q.(string)
	}
	q := d.Compose(written)
	d.written.Store(written, q)
	return q
}

// Either is SQL for a statement that each database has in its own words.
func (d *DB) Either(postgres, sqlite string) string {
	if d.kind == dialect.SQLite {
		return d.SQL(sqlite)
	}
	return d.SQL(postgres)
}

// Compose is SQL for a statement whose text depends on its input. The result is not
// kept.
func (d *DB) Compose(written string) string {
	q := d.kind.Qualify(d.schema, written)
	if d.kind == dialect.SQLite {
		q = nowPlus.ReplaceAllString(q, `strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ($1) || ' seconds')`)
		q = strings.ReplaceAll(q, `now()`, `strftime('%Y-%m-%dT%H:%M:%fZ', 'now')`)
		q = anyOf.ReplaceAllString(q, `IN (SELECT value FROM json_each(${1}))`)
		q = cast.ReplaceAllString(q, `${1}`)
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
