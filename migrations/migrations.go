// Package migrations holds Reprise's tables as embedded SQL files and brings a database
// up to the version that this program was built with.
//
// A committed migration is frozen: its file never changes again, and the database
// records the checksum of the file that it ran. CONTRIBUTING.md has the rules.
package migrations

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
)

//go:embed postgres sqlite
var files embed.FS

const (
	lockWait  = 30 * time.Second      // how long Up retries what other transactions' locks refuse
	lockPause = 10 * time.Millisecond // pause between two tries on SQLite
	// On PostgreSQL: how long one try may wait for a lock on a table, and the pause
	// after it. Every publish queues behind a waiting migration. The wait is shorter
	// than deadlock_timeout (1 s), so that a deadlock ends the migration's try and not
	// a transaction of the application.
	tableWait  = "500ms"
	tablePause = 500 * time.Millisecond
)

// VersionError reports a database whose tables are not of the version that the program
// was built with.
type VersionError struct {
	Schema   string
	Database int // version of the database; 0 when it has no Reprise tables
	Program  int // version of this program
}

func (e *VersionError) Error() string {
	switch {
	case e.Database == 0:
		return fmt.Sprintf("schema %q has no Reprise tables and this program needs version %d: call migrations.Up, or let bus.Open and bus.New do it", e.Schema, e.Program)
	case e.Database > e.Program:
		return fmt.Sprintf("schema %q is at version %d and this program knows versions up to %d: run a newer build of the program", e.Schema, e.Database, e.Program)
	default:
		return fmt.Sprintf("schema %q is at version %d and this program needs version %d: call migrations.Up, or let bus.Open and bus.New do it", e.Schema, e.Database, e.Program)
	}
}

// ChecksumError reports a database to which another migration was applied than the
// migration of the same number in this program.
type ChecksumError struct {
	Schema   string
	Version  int
	Name     string // of this program's migration
	Database string // SHA-256 that the database records
	Program  string // SHA-256 of this program's file
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("schema %q: migration %04d was applied from a file with the SHA-256 %q, and this program's %04d_%s has %q: these tables are not this program's; run the build that made them, or configure another schema", e.Schema, e.Version, e.Database, e.Version, e.Name, e.Program)
}

// Up brings the tables in schema to the version of this program. A schema of "" is
// "reprise"; on SQLite, schema is a prefix of the table names. Up is idempotent, and
// any number of processes may call it at once: one migrates, the others wait. All
// pending migrations are one transaction. On an up-to-date database, Up only reads.
//
// Processes of the previous version keep working during and after the migration. Up
// waits 0.5 s at a time for transactions that hold its tables, and gives up after 30 s.
//
// Up leaves some tables unchanged and returns a *VersionError (a newer version), a
// *ChecksumError (other migrations) or a *ShapeError (made before the first release).
func Up(ctx context.Context, db *sql.DB, schema string) error {
	for giveUp := time.Now().Add(lockWait); ; {
		err := up(ctx, db, schema)
		pause, locked := refusedByLock(err)
		if !locked {
			return err
		}
		if time.Now().After(giveUp) {
			return fmt.Errorf("gave up after %v: other transactions hold Reprise's tables: end those that are open for long, and call Up again: %w", lockWait, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}

// refusedByLock recognises errors that go away when other transactions end: SQLITE_BUSY
// and SQLITE_LOCKED of modernc.org/sqlite, and lock_not_available and deadlock_detected
// of PostgreSQL. SQLite's busy timeout does not cover everything that Up does: opening
// a file in WAL mode is refused at once while another process does the same.
func refusedByLock(err error) (pause time.Duration, refused bool) {
	var sqlite interface{ Code() int }
	if errors.As(err, &sqlite) {
		code := sqlite.Code() & 0xff
		return lockPause, code == 5 || code == 6
	}
	var postgres interface{ SQLState() string }
	if errors.As(err, &postgres) {
		state := postgres.SQLState()
		return tablePause, state == "55P03" || state == "40P01"
	}
	return 0, false
}

func up(ctx context.Context, db *sql.DB, schema string) error {
	m, err := newMigrator(ctx, db, schema)
	if err != nil {
		return err
	}
	have, err := m.read(ctx, db)
	if err != nil {
		return err
	}
	if err := m.refuse(ctx, db, have); err != nil || m.isDone(have) {
		return err
	}
	if err := m.up(ctx, db); err != nil {
		return fmt.Errorf("migrate schema %q to version %d: %w", m.schema, m.target(), err)
	}
	return nil
}

// Check returns nil when the tables are of the version of this program. Otherwise it
// returns a *VersionError when the tables are missing, older or newer, or the error
// that Up would return. It only reads.
func Check(ctx context.Context, db *sql.DB, schema string) error {
	m, err := newMigrator(ctx, db, schema)
	if err != nil {
		return err
	}
	have, err := m.read(ctx, db)
	if err != nil {
		return err
	}
	if err := m.refuse(ctx, db, have); err != nil || have.version == m.target() {
		return err
	}
	return &VersionError{Schema: m.schema, Database: have.version, Program: m.target()}
}

// Versions returns the version of the tables, 0 if there are none, and the version of
// this program. It only reads.
func Versions(ctx context.Context, db *sql.DB, schema string) (database, program int, err error) {
	m, err := newMigrator(ctx, db, schema)
	if err != nil {
		return 0, 0, err
	}
	have, err := m.read(ctx, db)
	return have.version, m.target(), err
}

type migration struct {
	version  int
	name     string
	sql      string
	checksum string   // SHA-256 of the file
	columns  []column // of all tables after the migration
}

type migrator struct {
	kind       dialect.Kind
	schema     string
	migrations []migration
}

func newMigrator(ctx context.Context, db *sql.DB, schema string) (*migrator, error) {
	schema, err := dialect.Schema(schema)
	if err != nil {
		return nil, err
	}
	kind, err := dialect.Detect(ctx, db)
	if err != nil {
		return nil, err
	}
	all, err := load(kind)
	if err != nil {
		return nil, err
	}
	return &migrator{kind: kind, schema: schema, migrations: all}, nil
}

// load reads the files NNNN_name.sql of a database, in order, and their columns from
// NNNN_name.columns.
func load(kind dialect.Kind) ([]migration, error) {
	names, err := fs.Glob(files, string(kind)+"/*.sql")
	if err != nil {
		return nil, err
	}
	all := make([]migration, 0, len(names))
	for i, file := range names {
		file = strings.TrimSuffix(file, ".sql")
		number, name, _ := strings.Cut(path.Base(file), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: want number %04d", file, i+1)
		}
		text, err := fs.ReadFile(files, file+".sql")
		if err != nil {
			return nil, err
		}
		columns, err := fs.ReadFile(files, file+".columns")
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{version, name, string(text), hex.EncodeToString(sum[:]), parseColumns(string(columns))})
	}
	return all, nil
}

func (m *migrator) target() int { return len(m.migrations) }

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// recorded is the content of the table migrations.
type recorded struct {
	version      int            // the highest version; 0 if there are no tables
	checksums    map[int]string // by version, of migrations that have a checksum
	hasChecksums bool           // whether the table has the column; version 1 did not have it
}

func (m *migrator) read(ctx context.Context, db querier) (have recorded, err error) {
	have, err = m.readTable(ctx, db)
	if err != nil {
		return have, fmt.Errorf("read the version of schema %q: %w", m.schema, err)
	}
	return have, nil
}

func (m *migrator) readTable(ctx context.Context, db querier) (have recorded, err error) {
	// to_regclass may answer from the session's cache, and so miss a table that another
	// process has just created.
	table := `
		SELECT count(*) > 0, count(*) FILTER (WHERE a.attname = 'checksum') > 0
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = 'migrations' AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped`
	if m.kind == dialect.SQLite {
		table = `SELECT count(*) > 0, count(*) FILTER (WHERE name = 'checksum') > 0 FROM pragma_table_info($1 || '_migrations')`
	}
	var exists bool
	if err := db.QueryRowContext(ctx, table, m.schema).Scan(&exists, &have.hasChecksums); err != nil || !exists {
		return have, err
	}
	query := `SELECT version, coalesce(checksum, '') FROM reprise.migrations`
	if !have.hasChecksums {
		query = `SELECT version, '' FROM reprise.migrations`
	}
	rows, err := db.QueryContext(ctx, m.sql(query))
	if err != nil {
		return have, err
	}
	defer rows.Close()
	have.checksums = map[int]string{}
	for rows.Next() {
		var version int
		var checksum string
		if err := rows.Scan(&version, &checksum); err != nil {
			return have, err
		}
		have.version = max(have.version, version)
		if checksum != "" {
			have.checksums[version] = checksum
		}
	}
	return have, rows.Err()
}

// refuse returns the reason to leave these tables unchanged, or nil.
func (m *migrator) refuse(ctx context.Context, db querier, have recorded) error {
	if have.version > m.target() {
		return &VersionError{Schema: m.schema, Database: have.version, Program: m.target()}
	}
	for _, applied := range m.migrations[:have.version] {
		if sum := have.checksums[applied.version]; sum != "" && sum != applied.checksum {
			return &ChecksumError{Schema: m.schema, Version: applied.version, Name: applied.name, Database: sum, Program: applied.checksum}
		}
	}
	if have.version == 0 || m.isSummed(have) {
		return nil
	}
	return m.refuseShape(ctx, db, have.version)
}

// isSummed reports whether every applied migration has a checksum.
func (m *migrator) isSummed(have recorded) bool {
	for _, applied := range m.migrations[:have.version] {
		if have.checksums[applied.version] == "" {
			return false
		}
	}
	return true
}

// isDone reports whether Up has nothing to do.
func (m *migrator) isDone(have recorded) bool {
	return have.version == m.target() && m.isSummed(have)
}

func (m *migrator) sql(statement string) string { return m.kind.Qualify(m.schema, statement) }

// up uses a connection of its own and opens the transaction by hand: on SQLite the
// transaction must take the write lock at its start, whatever the pool's settings.
func (m *migrator) up(ctx context.Context, db *sql.DB) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()

	if err := m.begin(ctx, conn); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	always := context.WithoutCancel(ctx)
	if err := m.apply(ctx, conn); err != nil {
		_, rollback := conn.ExecContext(always, `ROLLBACK`)
		return errors.Join(err, rollback)
	}
	if _, err := conn.ExecContext(always, `COMMIT`); err != nil {
		_, _ = conn.ExecContext(always, `ROLLBACK`) // on SQLite the transaction may still be open
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func (m *migrator) begin(ctx context.Context, conn *sql.Conn) error {
	if m.kind == dialect.SQLite {
		_, err := conn.ExecContext(ctx, `BEGIN IMMEDIATE`)
		return err
	}
	// The isolation level is explicit: the first statement after the lock must see what
	// the previous holder committed, whatever the session's default.
	if _, err := conn.ExecContext(ctx, `BEGIN ISOLATION LEVEL READ COMMITTED`); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "reprise migrations of "+m.schema)
	if err == nil {
		_, err = conn.ExecContext(ctx, `SELECT set_config('lock_timeout', $1, true)`, tableWait)
	}
	if err != nil {
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
	}
	return err
}

func (m *migrator) apply(ctx context.Context, conn *sql.Conn) error {
	have, err := m.read(ctx, conn)
	if err != nil {
		return err
	}
	if err := m.refuse(ctx, conn, have); err != nil {
		return err
	}
	if have.version == 0 {
		if err := m.create(ctx, conn); err != nil {
			return err
		}
	}
	if !have.hasChecksums {
		if _, err := conn.ExecContext(ctx, m.sql(`ALTER TABLE reprise.migrations ADD COLUMN checksum text`)); err != nil {
			return fmt.Errorf("make room for checksums: %w", err)
		}
	}
	for _, applied := range m.migrations[:have.version] {
		if have.checksums[applied.version] != "" {
			continue
		}
		if _, err := conn.ExecContext(ctx, m.sql(`UPDATE reprise.migrations SET checksum = $1 WHERE version = $2`), applied.checksum, applied.version); err != nil {
			return fmt.Errorf("record the checksum of version %d: %w", applied.version, err)
		}
	}
	for _, next := range m.migrations[have.version:] {
		if _, err := conn.ExecContext(ctx, m.sql(next.sql)); err != nil {
			return fmt.Errorf("%04d_%s: %w", next.version, next.name, err)
		}
		if _, err := conn.ExecContext(ctx, m.sql(`INSERT INTO reprise.migrations (version, name, checksum) VALUES ($1, $2, $3)`), next.version, next.name, next.checksum); err != nil {
			return fmt.Errorf("record version %d: %w", next.version, err)
		}
	}
	return nil
}

// create makes the schema and the table that records versions. CREATE SCHEMA IF NOT
// EXISTS would need the right to create schemas even if an administrator has already
// created this schema.
func (m *migrator) create(ctx context.Context, conn *sql.Conn) error {
	if m.kind == dialect.SQLite {
		_, err := conn.ExecContext(ctx, m.sql(`CREATE TABLE IF NOT EXISTS reprise.migrations (
			version    INTEGER PRIMARY KEY,
			name       TEXT NOT NULL,
			applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
		) STRICT`))
		return err
	}
	var encoding string
	if err := conn.QueryRowContext(ctx, `SHOW server_encoding`).Scan(&encoding); err != nil {
		return err
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database is encoded as %s: Reprise keeps JSON as text and needs one that is encoded as UTF8", encoding)
	}
	var exists bool
	if err := conn.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)`, m.schema).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := conn.ExecContext(ctx, `CREATE SCHEMA "`+m.schema+`"`); err != nil {
			return fmt.Errorf("create schema %q (its creator needs CREATE on the database, or an administrator makes it): %w", m.schema, err)
		}
	}
	_, err := conn.ExecContext(ctx, m.sql(`CREATE TABLE IF NOT EXISTS reprise.migrations (
		version    integer     PRIMARY KEY,
		name       text        NOT NULL,
		applied_at timestamptz NOT NULL DEFAULT now()
	)`))
	return err
}
