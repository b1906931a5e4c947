// Package dialect knows the databases on which Reprise runs, how to recognise them, and
// how Reprise's tables are named in each.
package dialect

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Kind is a database that Reprise runs on.
type Kind string

// The databases that Reprise runs on.
const (
	Postgres Kind = "postgres"
	SQLite   Kind = "sqlite"
)

// DefaultSchema is the schema of Reprise's tables if none is configured.
const DefaultSchema = "reprise"

// ErrUnsupported is returned by Detect for any other database.
var ErrUnsupported = errors.New("unsupported database")

// Detect asks the database for its kind. It works through any driver, wrapped or not.
func Detect(ctx context.Context, db *sql.DB) (Kind, error) {
	if db == nil {
		return "", errors.New("the database pool is nil: pass the *sql.DB of the application (of a *sqlx.DB, its field DB)")
	}
	if err := db.PingContext(ctx); err != nil {
		return "", fmt.Errorf("connect to the database: %w", err)
	}
	var version string
	err := db.QueryRowContext(ctx, `SELECT version()`).Scan(&version)
	switch {
	case err == nil && strings.HasPrefix(version, "PostgreSQL"):
		return Postgres, nil
	case err == nil:
		return "", fmt.Errorf("%w: %q; Reprise runs on PostgreSQL 13 or later and on SQLite 3.37 or later", ErrUnsupported, version)
	}
	if lite := db.QueryRowContext(ctx, `SELECT sqlite_version()`).Scan(&version); lite == nil {
		return SQLite, nil
	}
	return "", fmt.Errorf("ask the database for its version: %w", err)
}

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)

// Schema returns the configured schema, or the default for an empty one. A name that
// would need quotes is an error, because a schema cannot be a parameter of a statement.
func Schema(configured string) (string, error) {
	if configured == "" {
		return DefaultSchema, nil
	}
	if !schemaName.MatchString(configured) {
		return "", fmt.Errorf("schema %q: want 1 to 40 lower-case letters, digits and underscores, not starting with a digit", configured)
	}
	return configured, nil
}

// Qualify replaces the default table names of a statement (reprise.events) by those of
// the schema. SQLite has no schemas: the name becomes a prefix (reprise_events).
func (k Kind) Qualify(schema, statement string) string {
	if k == SQLite {
		return strings.ReplaceAll(statement, DefaultSchema+".", schema+"_")
	}
	return strings.ReplaceAll(statement, DefaultSchema+".", `"`+schema+`".`)
}
