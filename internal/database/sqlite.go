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

// OpenToLook is Open for whoever only reads: a pool that refuses to write, and
// that changes no byte of a SQLite file. It reads the file to see how.
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
			return db, nil // another error is the caller's to see
		}
		_ = db.Close() // the next way is tried
	}
	return nil, fmt.Errorf("SQLite file %s cannot be read where it is: there are changes in %s-wal, and its directory cannot be written: copy the files to another directory: %w", path, path, err)
}

// forgetPragmas leaves out of a URL what its application may want to be set: a
// pragma such as journal_mode changes the file.
func forgetPragmas(settings url.Values) {
	maps.DeleteFunc(settings, func(name string, _ []string) bool { return strings.HasPrefix(name, "_") && name != "_pragma" })
	settings["_pragma"] = slices.DeleteFunc(slices.Clone(settings["_pragma"]), func(pragma string) bool {
		return !strings.HasPrefix(pragma, "busy_timeout")
	})
}

// waysToLook are the parameters to open a file with that is only read, of which
// the first that can be opened counts.
//
// A file in WAL mode needs an index of the WAL beside it, which SQLite makes. It
// takes it away again when the last connection closes that may write. Where the
// directory cannot be written, and there is nothing in the WAL, the file alone is
// read.
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

// inWAL reads from the header of a SQLite file whether it is in WAL mode.
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

// readOnly says whether the parameters of a SQLite URL let nobody write.
func readOnly(settings url.Values) bool {
	return settings.Get("mode") == "ro" || settings.Get("immutable") != ""
}

// known are SQLite's own parameters of a URL. Those of its driver begin with _.
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

// openSQLite opens a file with one connection. busy_timeout is for other
// processes on the same file.
func openSQLite(path string, settings url.Values) (*sql.DB, error) {
	ours := []string{"busy_timeout(10000)", "foreign_keys(1)"}
	settings["_pragma"] = append(ours, settings["_pragma"]...) // of two the last counts
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
