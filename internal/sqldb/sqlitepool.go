package sqldb

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// The DSN of the application's SQLite pool decides what can work on the pool. SQLite tells
// the settings of a connection, but not those of the next one: database/sql does not
// reveal the DSN.

const (
	// A connection with a busy timeout below shortTimeout counts as having none.
	shortTimeout = 1000 // ms
	// ownBusyTimeout sets Reprise's own busy timeout. Its number distinguishes it from
	// a timeout of the DSN.
	ownBusyTimeout = `PRAGMA busy_timeout = 9999`
	ownTimeout     = 9999
	// probing is how long inspect waits for a second connection of the pool.
	probing = 2 * time.Second
)

// settings are the settings of one connection.
type settings struct {
	file    string // "" is a database in memory
	timeout int    // ms
	locking string
	journal string
	tables  bool // Reprise's tables exist
	full    bool // result columns are also named after their tables
	short   bool // the default
}

func (d *DB) settings(ctx context.Context, c *sqlx.Conn) (is settings, err error) {
	return is, errors.Join(
		c.GetContext(ctx, &is.file, `SELECT coalesce(file, '') FROM pragma_database_list WHERE name = 'main'`),
		c.GetContext(ctx, &is.timeout, `PRAGMA busy_timeout`),
		c.GetContext(ctx, &is.locking, `PRAGMA locking_mode`),
		c.GetContext(ctx, &is.journal, `PRAGMA journal_mode`),
		c.GetContext(ctx, &is.full, `PRAGMA full_column_names`),
		c.GetContext(ctx, &is.short, `PRAGMA short_column_names`),
		c.GetContext(ctx, &is.tables, `SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1 || '_instances')`, d.schema),
	)
}

func (is settings) hasTimeout() bool {
	return is.timeout >= shortTimeout && is.timeout != ownTimeout
}

// inspect refuses a pool on which Reprise cannot work. It notes what Reprise's
// transactions have to set, and advice for the application.
func (d *DB) inspect(ctx context.Context) error {
	first, err := d.pool.Connx(ctx)
	if err != nil {
		return err
	}
	defer first.Close()
	is, err := d.settings(ctx, first)
	if err != nil {
		return fmt.Errorf("ask the SQLite database how it was opened: %w", err)
	}
	if is.full || !is.short {
		return errors.New("connections of the SQLite pool have full_column_names on, or short_column_names off, which renames the columns of every statement: leave that pragma out of the DSN")
	}
	d.impatient = !is.hasTimeout()
	if err := d.SetBusyTimeout(ctx, first); err != nil {
		return err
	}
	if d.pool.Stats().MaxOpenConnections == 1 {
		return nil // only other processes can collide, and Reprise waits for these
	}
	if is.locking == "exclusive" {
		return fmt.Errorf("the SQLite pool has several connections and locking_mode EXCLUSIVE, by which the first of them keeps all others out: leave that pragma out of the DSN, or allow one connection, db.SetMaxOpenConns(1)")
	}
	brief, cancel := context.WithTimeout(ctx, probing)
	defer cancel()
	second, err := d.pool.Connx(brief)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil // the application uses all other connections
	}
	if err != nil {
		return err
	}
	defer second.Close()
	other, err := d.settings(ctx, second)
	if err != nil {
		return fmt.Errorf("ask the SQLite database how it was opened: %w", err)
	}
	if other.file != is.file || !other.tables || !is.tables {
		return fmt.Errorf("each connection of the SQLite pool has a database of its own (the DSN is \":memory:\" or empty), so that Reprise's tables are in one of them only: allow one connection, db.SetMaxOpenConns(1) before anything else, or let bus.Open(ctx, \"sqlite::memory:\", …) make the pool, or use a file: sql.Open(\"sqlite\", %q)", dsn("app.db"))
	}
	if is.file == "" { // in a shared cache, writers wait for each other and are not refused
		return nil
	}
	d.impatient = d.impatient || !other.hasTimeout()
	if err := d.SetBusyTimeout(ctx, second); err != nil {
		return err
	}
	deferred, err := beginsDeferred(ctx, first, second)
	if err != nil {
		return fmt.Errorf("ask the SQLite database how its transactions begin: %w", err)
	}
	d.advice = advice(is, d.impatient, deferred)
	return nil
}

// beginsDeferred reports whether the pool's transactions begin without the write lock:
// the second connection can take the lock while a transaction is open on the first.
// While another process writes, it reports false.
func beginsDeferred(ctx context.Context, first, second *sqlx.Conn) (deferred bool, err error) {
	tx, err := first.BeginTxx(ctx, nil)
	if dialect.Busy(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, rollback(tx)) }()
	var timeout int
	if err := second.GetContext(ctx, &timeout, `PRAGMA busy_timeout`); err != nil {
		return false, err
	}
	always := context.WithoutCancel(ctx)
	defer func() {
		_, restored := second.ExecContext(always, fmt.Sprintf(`PRAGMA busy_timeout = %d`, timeout))
		err = errors.Join(err, restored)
	}()
	if _, err := second.ExecContext(ctx, `PRAGMA busy_timeout = 0`); err != nil {
		return false, err
	}
	switch _, err := second.ExecContext(always, `BEGIN IMMEDIATE`); {
	case dialect.Busy(err):
		return false, nil
	case err != nil:
		return false, err
	}
	_, err = second.ExecContext(always, `ROLLBACK`)
	return true, err
}

// dsn returns the recommended DSN of a file.
func dsn(file string) string {
	return "file:" + (&url.URL{Path: file}).EscapedPath() + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_txlock=immediate"
}

// advice says which work of the application may fail, and how to open the file so that
// it does not.
func advice(is settings, impatient, deferred bool) string {
	var faults []string
	if impatient {
		faults = append(faults, "its connections have no busy_timeout, so that statements of the application's own fail with SQLITE_BUSY while another connection, such as one of Reprise's, is writing")
	}
	if deferred {
		faults = append(faults, "its transactions begin without the write lock, so that one of the application's own that reads before it writes fails with SQLITE_BUSY when another connection has written meanwhile")
	}
	if len(faults) == 0 {
		return ""
	}
	if is.journal != "wal" {
		faults = append(faults, "its journal_mode is "+is.journal+", in which readers and writers keep each other out")
	}
	return fmt.Sprintf("the SQLite pool can be used, but %s: open it with sql.Open(%q, %q), or let bus.Open(ctx, %q, …) make it", strings.Join(faults, "; "), "sqlite", dsn(is.file), "sqlite:"+is.file)
}

// Advice returns what the application should know about how it opened the pool, or "".
func (d *DB) Advice() string { return d.advice }
