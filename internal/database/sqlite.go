package database

import (
	"database/sql"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// OpenToLook is Open for reading only. Its pool refuses to write, and changes no byte
// of a SQLite file. OpenToLook reads the file to choose the way to open it.
func OpenToLook(databaseURL string) (*sql.DB, error) {
	rest, isSQLite := strings.CutPrefix(databaseURL, "sqlite:")
	if !isSQLite {
		return Open(databaseURL)
	}
	path, settings, err := parseSQLite(rest)
	if err != nil {
		return nil, err
	}
	forgetPragmas(settings)
	settings["_pragma"] = append(settings["_pragma"], "query_only(1)")
	for _, with := range waysToLook(path, settings) {
		attempt := maps.Clone(settings)
		for name, value := range with {
			attempt.Set(name, value)
		}
		db, opened := openSQLite(path, attempt)
		if opened != nil {
			return nil, opened
		}
		var schema int
		if err = db.QueryRow(`PRAGMA schema_version`).Scan(&schema); !dialect.CannotOpen(err) {
			return db, nil // the caller sees any other error
		}
		_ = db.Close() // try the next way
	}
	return nil, fmt.Errorf("SQLite file %s cannot be read where it is: there are changes in %s-wal, and its directory cannot be written: copy the files to another directory: %w", path, path, err)
}

// forgetPragmas removes the parameters of a URL that may change the file: a pragma such
// as journal_mode does. It keeps busy_timeout.
func forgetPragmas(settings url.Values) {
	maps.DeleteFunc(settings, func(name string, _ []string) bool { return strings.HasPrefix(name, "_") && name != "_pragma" })
	settings["_pragma"] = slices.DeleteFunc(slices.Clone(settings["_pragma"]), func(pragma string) bool {
		return !strings.HasPrefix(pragma, "busy_timeout")
	})
}

// waysToLook returns sets of parameters to open a file for reading. The first set with
// which the file can be opened is used.
//
// A file in WAL mode needs an index of the WAL beside it. SQLite creates the index, and
// removes it when the last connection that may write closes. If the directory cannot be
// written and the WAL is empty, the file is read alone.
func waysToLook(path string, settings url.Values) []map[string]string {
	ro, rw, immutable := map[string]string{"mode": "ro"}, map[string]string{"mode": "rw"}, map[string]string{"immutable": "1"}
	wal, err := os.Stat(path + "-wal")
	switch {
	case path == ":memory:" || settings.Get("immutable") != "":
		return []map[string]string{nil}
	case !inWAL(path) || err == nil && wal.Size() > 0:
		return []map[string]string{ro}
	case err == nil:
		return []map[string]string{ro, immutable}
	}
	return []map[string]string{rw, immutable}
}

// inWAL reads from the header of a SQLite file whether the file is in WAL mode.
func inWAL(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	header := make([]byte, 20)
	n, _ := file.Read(header)
	return n == len(header) && header[18] == 2
}

// readOnly reports whether the parameters of a SQLite URL forbid writing.
func readOnly(settings url.Values) bool {
	return settings.Get("mode") == "ro" || settings.Get("immutable") != ""
}

// known are SQLite's own parameters of a URL. The parameters of its driver begin with
// _.
var known = []string{"mode", "immutable", "cache", "vfs", "psow", "nolock", "modeof"}

func parseSQLite(rest string) (path string, settings url.Values, err error) {
	path, query, _ := strings.Cut(strings.TrimPrefix(rest, "//"), "?")
	if path == "" {
		return "", nil, fmt.Errorf("database URL sqlite: without a file: %s", wanted)
	}
	if settings, err = url.ParseQuery(query); err != nil {
		return "", nil, fmt.Errorf("database URL sqlite:%s: its parameters are no query: want name=value&name=value", path)
	}
	for name := range settings {
		if !strings.HasPrefix(name, "_") && !slices.Contains(known, name) {
			return "", nil, fmt.Errorf("database URL sqlite:%s: parameter %q would have no effect: want one of %s, or a pragma such as _pragma=busy_timeout(5000)", path, name, strings.Join(known, ", "))
		}
	}
	return path, settings, nil
}

// openSQLite opens a file with one connection. busy_timeout is for other processes that
// use the file.
func openSQLite(path string, settings url.Values) (*sql.DB, error) {
	ours := []string{"busy_timeout(10000)", "foreign_keys(1)"}
	settings["_pragma"] = append(ours, settings["_pragma"]...) // the last setting of a pragma counts
	if !readOnly(settings) && !slices.Contains(settings["_pragma"], "query_only(1)") {
		settings.Set("_txlock", "immediate")
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+settings.Encode())
	if err != nil {
		return nil, fmt.Errorf("open SQLite file %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	db.SetConnMaxLifetime(0)
	return db, nil
}
