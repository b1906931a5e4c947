// Package database opens pools from URLs.
package database

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	_ "github.com/lib/pq"  // PostgreSQL
	_ "modernc.org/sqlite" // SQLite

	"github.com/reprise-bus/reprise/internal/parameters"
)

const wanted = `want postgres://user:password@host:5432/database or sqlite:path/to/file.db`

// Open returns a pool for a postgres:// or sqlite: URL. It does not connect.
// Errors never quote a password.
//
// A SQLite file is put into WAL mode, for good, unless the URL says mode=ro or
// immutable=1.
func Open(databaseURL string) (*sql.DB, error) {
	return open(databaseURL, func(path string, settings url.Values) {
		if !readOnly(settings) {
			settings["_pragma"] = append([]string{"journal_mode(WAL)", "synchronous(NORMAL)"}, settings["_pragma"]...)
		}
	})
}

// OpenAsItIs is Open, and leaves the journal mode of a SQLite file to the
// application that the file belongs to.
func OpenAsItIs(databaseURL string) (*sql.DB, error) {
	return open(databaseURL, func(string, url.Values) {})
}

func open(databaseURL string, how func(path string, settings url.Values)) (*sql.DB, error) {
	scheme, rest, found := strings.Cut(databaseURL, ":")
	if !found {
		return nil, fmt.Errorf("database URL without a scheme: %s", wanted)
	}
	switch scheme {
	case "postgres", "postgresql":
		if err := checkPostgres(databaseURL); err != nil {
			return nil, fmt.Errorf("database URL of scheme %q %w: %s", scheme, err, wanted)
		}
		db, err := sql.Open("postgres", databaseURL)
		if err != nil {
			return nil, fmt.Errorf("database URL of scheme %q: %s", scheme, wanted) // the cause would quote the password
		}
		return db, nil
	case "sqlite":
		path, settings, err := parseSQLite(rest)
		if err != nil {
			return nil, err
		}
		how(path, settings)
		return openSQLite(path, settings)
	default:
		return nil, fmt.Errorf("database URL of scheme %q is not supported: %s", scheme, wanted)
	}
}

// checkPostgres quotes no part of the URL: there may be a password in it.
func checkPostgres(databaseURL string) error {
	if _, err := url.Parse(databaseURL); err != nil {
		return errors.New("does not parse")
	}
	if !strings.Contains(databaseURL, "://") { // which would be a server of this machine
		return errors.New("has no // before the host")
	}
	return parameters.CheckUser(databaseURL)
}
