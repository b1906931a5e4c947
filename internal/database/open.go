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
	if !found || !isScheme(scheme) { // which is not shown: of key=value settings, it may be the password
		return nil, fmt.Errorf("database URL without a scheme: %s; settings of the form key=value are not taken", wanted)
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
	var err error
	if strings.Contains(dsn, "://") {
		err = checkPostgres(dsn)
	} else if _, bad := pq.NewConnector(dsn); bad != nil {
		err = errors.New("does not parse")
	}
	if err != nil {
		return fmt.Errorf("it %w: want postgres://user:password@host:5432/database, with %%xx for special characters of the password", err)
	}
	return nil
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
