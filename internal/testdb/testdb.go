// Package testdb gives each test a database of its own.
package testdb

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/reprise-bus/reprise/internal/database"
)

// Each runs f on a fresh database of every kind, as the parallel subtests
// "postgres" and "sqlite".
func Each(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	for _, kind := range []struct {
		name  string
		fresh func(testing.TB) string
	}{
		{"postgres", Postgres},
		{"sqlite", SQLite},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			f(t, kind.fresh(t))
		})
	}
}

// Postgres creates an empty database, UTF-8 with locale C, on the server of
// TEST_DATABASE_URL and returns its URL. The database is dropped when the test
// and its subtests are over, even while connections to it are open. Tests may
// call it in parallel.
//
// Without that server the test fails; it is never skipped.
func Postgres(t testing.TB) string {
	t.Helper()
	server := os.Getenv("TEST_DATABASE_URL")
	if server == "" {
		t.Fatal("this test needs a Postgres server: run it with `make test` or `go run ./internal/testpg -- go test ./...`, or set TEST_DATABASE_URL to a superuser's postgres:// URL")
	}
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		t.Fatal("TEST_DATABASE_URL is not a postgres:// URL: correct it, or unset it and run `make test`")
	}

	name := "reprise_test_" + strings.ToLower(rand.Text())
	// Unlike template1, template0 is always empty and nobody can be connected
	// to it, which would make creating a database fail.
	if err := exec(server, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"); err != nil {
		t.Fatalf("create a database on the server of TEST_DATABASE_URL: %v", err)
	}
	t.Cleanup(func() {
		if err := exec(server, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop test database %s: %v", name, err)
		}
	})
	u.Path, u.RawPath = "/"+name, ""
	return u.String()
}

// SQLite returns the URL of a database file that does not exist yet, in a
// directory that is removed when the test and its subtests are over.
func SQLite(t testing.TB) string {
	t.Helper()
	return "sqlite:" + filepath.ToSlash(filepath.Join(t.TempDir(), "test.db"))
}

// Open returns a pool on the database, which is closed when the test and its
// subtests are over.
func Open(t testing.TB, url string) *sql.DB {
	t.Helper()
	db, err := database.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// exec runs one statement on a connection of its own. It does not use the
// test's context, which is cancelled before cleanup.
func exec(server, statement string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db, err := sql.Open("postgres", server)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}
