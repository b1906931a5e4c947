// Package database opens pools from URLs.
package database

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/lib/pq"    // PostgreSQL
	_ "modernc.org/sqlite" // SQLite
)

const wanted = `want postgres://user:password@host:5432/database or sqlite:path/to/file.db`

// Open returns a pool for a postgres:// or sqlite: URL. It does not connect.
// Errors never quote a password.
func Open(databaseURL string) (*sql.DB, error) {
	scheme, rest, found := strings.Cut(databaseURL, ":")
	if !found || !isScheme(scheme) { // which is not shown: of key=value settings, it may be the password
		return nil, fmt.Errorf("database URL without a scheme: %s; settings of the form key=value are not taken", wanted)
	}
	switch scheme {
	case "postgres", "postgresql":
		if CheckPostgres(databaseURL) != nil {
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
		if !strings.HasPrefix(rest, "//") { // it may be a user, or a part of a password, and is not shown
			return nil, fmt.Errorf("database URL of a scheme that is not supported: %s", wanted)
		}
		return nil, fmt.Errorf("database URL of scheme %q is not supported: %s", scheme, wanted)
	}
}

// isScheme says whether a URL may begin so.
func isScheme(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
}

// CheckPostgres returns an error, without any part of it, where a PostgreSQL URL or
// key=value settings do not parse: the drivers' own errors quote them.
func CheckPostgres(dsn string) error {
	parse := func() error { _, err := pq.NewConnector(dsn); return err }
	if strings.Contains(dsn, "://") {
		parse = func() error { _, err := url.Parse(dsn); return err }
	}
	if parse() != nil {
		return errors.New("it does not parse: want postgres://user:password@host:5432/database, with %xx for special characters of the password")
	}
	return nil
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
		return nil, fmt.Errorf("database URL sqlite:%s: its parameters are no query: want name=value&name=value", path)
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
