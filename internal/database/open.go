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

// Open returns a pool for a postgres:// or sqlite: URL. It does not connect. Errors
// never quote a password.
//
// Open puts a SQLite file into WAL mode permanently, unless the URL says mode=ro or
// immutable=1.
func Open(databaseURL string) (*sql.DB, error) {
	return open(databaseURL, func(path string, settings url.Values) {
		if !readOnly(settings) {
			settings["_pragma"] = append([]string{"journal_mode(WAL)", "synchronous(NORMAL)"}, settings["_pragma"]...)
		}
	})
}

// OpenAsItIs is Open without a change of the journal mode, which belongs to the
// application that owns the SQLite file.
func OpenAsItIs(databaseURL string) (*sql.DB, error) {
	return open(databaseURL, func(string, url.Values) {})
}

func open(databaseURL string, how func(path string, settings url.Values)) (*sql.DB, error) {
	scheme, rest, found := strings.Cut(databaseURL, ":")
	if !found || !isScheme(scheme) { // the scheme is not shown: of key=value settings, it may be the password
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
		if !strings.HasPrefix(rest, "//") { // the scheme may be a user or a part of a password, and is not shown
			return nil, fmt.Errorf("database URL of a scheme that is not supported: %s", wanted)
		}
		return nil, fmt.Errorf("database URL of scheme %q is not supported: %s", scheme, wanted)
	}
}

// isScheme reports whether s can be the scheme of a URL.
func isScheme(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
}

// CheckPostgres returns an error if a PostgreSQL URL or key=value settings do not
// parse. The error quotes no part of them, unlike the drivers' errors.
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

// checkPostgres checks a URL. Its errors quote no part of the URL, which may contain a
// password.
func checkPostgres(databaseURL string) error {
	if _, err := url.Parse(databaseURL); err != nil {
		return errors.New("does not parse")
	}
	if !strings.Contains(databaseURL, "://") { // would mean a server on this machine
		return errors.New("has no // before the host")
	}
	return parameters.CheckUser(databaseURL)
}
