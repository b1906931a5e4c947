package cli

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/database"
	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// answerTime is how long a database may take to give its first answer.
const answerTime = 10 * time.Second

var errNoURL = errors.New("no database is given: set REPRISE_DATABASE_URL, or --database-url, to postgres://user:password@host:5432/database or sqlite:path/to/file.db")

// withStore runs f, which only reads, on the database that the flags or the environment
// name.
func (a *app) withStore(ctx context.Context, f func(st *store.Store) error) error {
	return a.with(ctx, toLook, f)
}

// toWrite runs f, which changes the record unless it is a dry run.
func (a *app) toWrite(ctx context.Context, dryRun bool, f func(st *store.Store) error) error {
	if dryRun {
		return a.withStore(ctx, f)
	}
	return a.with(ctx, toChange, f)
}

func (a *app) with(ctx context.Context, to access, f func(st *store.Store) error) error {
	return a.withDatabase(ctx, to, func(db *sql.DB) error {
		st, err := a.openStore(ctx, db)
		if err != nil {
			return err
		}
		return f(st)
	})
}

// access is what a command does to the database.
type access int

const (
	toLook access = iota
	toChange
	toMigrate // creates a missing SQLite file, and puts it into WAL mode
)

func (to access) open(url string) (*sql.DB, error) {
	switch to {
	case toMigrate:
		return database.Open(url)
	case toChange:
		return database.OpenAsItIs(url)
	}
	return database.OpenToLook(url)
}

// withDatabase runs f on a pool.
func (a *app) withDatabase(ctx context.Context, to access, f func(db *sql.DB) error) (err error) {
	url := cmp.Or(a.databaseURL, a.getenv("REPRISE_DATABASE_URL"))
	if url == "" {
		return usage(errNoURL)
	}
	if _, err := dialect.Schema(a.schemaName()); err != nil {
		return usage(err)
	}
	if to != toMigrate {
		if err := exists(url); err != nil {
			return err
		}
	}
	db, err := to.open(url)
	switch {
	case dialect.CannotOpen(err):
		return err
	case err != nil:
		return usage(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err = f(db); dialect.ReadOnly(err) {
		err = fmt.Errorf("the SQLite file cannot be written, and this command changes what is on record: the file and its directory must allow it, and the database URL must not say mode=ro or immutable: %w", err)
	}
	return err
}

// exists reports a missing SQLite file, which opening would create.
func exists(url string) error {
	path, isSQLite := strings.CutPrefix(url, "sqlite:")
	path, _, _ = strings.Cut(strings.TrimPrefix(path, "//"), "?")
	if !isSQLite || path == "" || path == ":memory:" {
		return nil
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("SQLite file %s: %w: correct the path, or make the file with: reprise migrate up", path, errors.Unwrap(err))
	}
	return nil
}

func (a *app) schemaName() string { return cmp.Or(a.schema, a.getenv("REPRISE_SCHEMA")) }

func (a *app) openStore(ctx context.Context, db *sql.DB) (*store.Store, error) {
	answer, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	// A command runs each statement only a few times, and there may be a transaction
	// pooler in between.
	st, err := store.New(answer, db, a.schemaName(), store.Unprepared())
	return st, explain(err)
}

// explain adds what to do about a database that cannot be used.
func explain(err error) error {
	var (
		version  *migrations.VersionError
		shape    *migrations.ShapeError
		checksum *migrations.ChecksumError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &shape), errors.As(err, &checksum):
		return err
	case errors.As(err, &version) && version.Database == 0:
		return fmt.Errorf("schema %q of the database has no Reprise tables: make them with: reprise migrate up; or say where they are with --schema", version.Schema)
	case errors.As(err, &version) && version.Database > version.Program:
		return fmt.Errorf("schema %q is at version %d and this reprise knows versions up to %d: install a newer one", version.Schema, version.Database, version.Program)
	case errors.As(err, &version):
		return fmt.Errorf("schema %q is at version %d and this reprise needs %d: bring it up with: reprise migrate up", version.Schema, version.Database, version.Program)
	case dialect.ReadOnly(err):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the database has not answered for %v: see whether it is up, and whether the database URL is right: %w", answerTime, err)
	}
	return fmt.Errorf("%w: see whether the database is up, and whether the database URL is right", err)
}
