// Package migrations holds Reprise's tables as embedded SQL and brings a
// database up to the version that this program was built with.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
)

//go:embed postgres/*.sql sqlite/*.sql
var files embed.FS

// What a SQLite file refuses while another process works on it, Up tries again
// for this long.
const (
	lockWait  = 30 * time.Second
	lockPause = 10 * time.Millisecond
)

// VersionError reports a database whose tables are not of the version that
// the program was built with.
type VersionError struct {
	Schema   string
	Database int // version of the database; 0 when Reprise has no tables there
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

// Up brings the tables in schema ("" is "reprise"; on SQLite it is a prefix of
// the table names) to the version of this program. It is idempotent, and any
// number of processes may call it at once: one migrates, the others wait. All
// pending migrations are one transaction. On a database that is up to date it
// only reads.
//
// A database of a newer version is left alone and reported as *VersionError.
func Up(ctx context.Context, db *sql.DB, schema string) error {
	for giveUp := time.Now().Add(lockWait); ; {
		err := up(ctx, db, schema)
		if !isLocked(err) || time.Now().After(giveUp) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(lockPause):
		}
	}
}

// isLocked recognises SQLITE_BUSY of any driver. The file's busy timeout, if
// it has one, does not cover all that Up does: opening the file in WAL mode is
// refused at once while others do so.
func isLocked(err error) bool {
	return err != nil && strings.Contains(err.Error(), "database is locked")
}

func up(ctx context.Context, db *sql.DB, schema string) error {
	err := Check(ctx, db, schema)
	var outdated *VersionError
	if !errors.As(err, &outdated) || outdated.Database > outdated.Program {
		return err
	}
	m, err := newMigrator(ctx, db, schema)
	if err != nil {
		return err
	}
	if err := m.up(ctx, db); err != nil {
		return fmt.Errorf("migrate schema %q to version %d: %w", m.schema, m.target(), err)
	}
	return nil
}

// Check returns nil when the tables are of the version of this program, and a
// *VersionError when they are missing, older or newer. It only reads.
func Check(ctx context.Context, db *sql.DB, schema string) error {
	have, want, err := Versions(ctx, db, schema)
	if err != nil || have == want {
		return err
	}
	schema, err = dialect.Schema(schema)
	return errors.Join(err, &VersionError{Schema: schema, Database: have, Program: want})
}

// Versions returns the version of the tables, 0 where there are none, and that
// of this program. It only reads.
func Versions(ctx context.Context, db *sql.DB, schema string) (database, program int, err error) {
	m, err := newMigrator(ctx, db, schema)
	if err != nil {
		return 0, 0, err
	}
	have, err := m.version(ctx, db)
	if err != nil {
		return 0, 0, fmt.Errorf("read the version of schema %q: %w", m.schema, err)
	}
	return have, m.target(), nil
}

type migration struct {
	version int
	name    string
	sql     string
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

// load reads the files NNNN_name.sql of a database, in order.
func load(kind dialect.Kind) ([]migration, error) {
	names, err := fs.Glob(files, string(kind)+"/*.sql")
	if err != nil {
		return nil, err
	}
	all := make([]migration, 0, len(names))
	for i, file := range names {
		number, name, _ := strings.Cut(strings.TrimSuffix(path.Base(file), ".sql"), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: want number %04d", file, i+1)
		}
		text, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version: version, name: name, sql: string(text)})
	}
	return all, nil
}

func (m *migrator) target() int { return len(m.migrations) }

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// version is 0 where there are no tables.
func (m *migrator) version(ctx context.Context, db querier) (int, error) {
	// Not to_regclass, which may answer from the session's cache: what another
	// process has just created is then not there.
	exists := `SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'migrations')`
	if m.kind == dialect.SQLite {
		exists = `SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1 || '_migrations')`
	}
	var found bool
	if err := db.QueryRowContext(ctx, exists, m.schema).Scan(&found); err != nil || !found {
		return 0, err
	}
	var version int
	err := db.QueryRowContext(ctx, m.sql(`SELECT coalesce(max(version), 0) FROM reprise.migrations`)).Scan(&version)
	return version, err
}

func (m *migrator) sql(statement string) string { return m.kind.Qualify(m.schema, statement) }

// up runs on one connection of its own, whose transaction is opened by hand:
// SQLite must take the write lock at its start, whatever the pool is set to.
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
		_, _ = conn.ExecContext(always, `ROLLBACK`) // in SQLite the transaction may go on
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func (m *migrator) begin(ctx context.Context, conn *sql.Conn) error {
	if m.kind == dialect.SQLite {
		_, err := conn.ExecContext(ctx, `BEGIN IMMEDIATE`)
		return err
	}
	// Whatever the session's default: the first statement after the lock must
	// see what was committed by whoever held it.
	if _, err := conn.ExecContext(ctx, `BEGIN ISOLATION LEVEL READ COMMITTED`); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "reprise migrations of "+m.schema)
	if err != nil {
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
	}
	return err
}

func (m *migrator) apply(ctx context.Context, conn *sql.Conn) error {
	have, err := m.version(ctx, conn)
	if err != nil {
		return err
	}
	if have > m.target() {
		return &VersionError{Schema: m.schema, Database: have, Program: m.target()}
	}
	if have == 0 {
		if err := m.create(ctx, conn); err != nil {
			return err
		}
	}
	for _, next := range m.migrations[have:] {
		if _, err := conn.ExecContext(ctx, m.sql(next.sql)); err != nil {
			return fmt.Errorf("%04d_%s: %w", next.version, next.name, err)
		}
		if _, err := conn.ExecContext(ctx, m.sql(`INSERT INTO reprise.migrations (version, name) VALUES ($1, $2)`), next.version, next.name); err != nil {
			return fmt.Errorf("record version %d: %w", next.version, err)
		}
	}
	return nil
}

// create makes the schema and the table that records versions. CREATE SCHEMA
// IF NOT EXISTS would need the right to create schemas even where there is
// one already, which an administrator may have made for us.
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
