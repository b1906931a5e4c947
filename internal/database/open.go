// Package database opens pools from URLs.
package database

import (
	"database/sql"
	"fmt"
	"net/url"
	"strings"

	_ "github.com/lib/pq"  // PostgreSQL
	_ "modernc.org/sqlite" // SQLite
)

const wanted = `want postgres://user:password@host:5432/database or sqlite:path/to/file.db`

// Open returns a pool for a postgres:// or sqlite: URL. It does not connect.
// Errors never quote a password.
func Open(databaseURL string) (*sql.DB, error) {
	scheme, rest, found := strings.Cut(databaseURL, ":")
	if !found {
		return nil, fmt.Errorf("database URL without a scheme: %s", wanted)
	}
	switch scheme {
	case "postgres", "postgresql":
		if _, err := url.Parse(databaseURL); err != nil {
			return nil, fmt.Errorf("database URL of scheme %q does not parse: %s", scheme, wanted) // the cause would quote the password
		}
		db, err := sql.Open("postgres", databaseURL)
		if err != nil {
			return nil, fmt.Errorf("database URL of scheme %q: %s", scheme, wanted)
		}
		return db, nil
	case "sqlite":
		return openSQLite(rest)
	default:
		return nil, fmt.Errorf("database URL of scheme %q is not supported: %s", scheme, wanted)
	}
}

// openSQLite opens a file in WAL mode with one connection. busy_timeout is for
// other processes on the same file.
func openSQLite(path string) (*sql.DB, error) {
	path, query, _ := strings.Cut(strings.TrimPrefix(path, "//"), "?")
	if path == "" {
		return nil, fmt.Errorf("database URL sqlite: without a file: %s", wanted)
	}
	settings, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("database URL sqlite:%s: %w", path, err)
	}
	ours := []string{"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(1)"}
	settings["_pragma"] = append(ours, settings["_pragma"]...) // of two the last counts
	settings.Set("_txlock", "immediate")
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+settings.Encode())
	if err != nil {
		return nil, fmt.Errorf("open SQLite file %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	db.SetConnMaxLifetime(0)
	return db, nil
}
