package testdb_test

import (
	"database/sql"
	"os"
	"runtime"
	"strings"
	"testing"

	_ "github.com/lib/pq"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/reprise-bus/reprise/internal/testdb"
)

func TestEachDatabaseIsFresh(t *testing.T) {
	for range 4 {
		testdb.Each(t, func(t *testing.T, url string) {
			db := open(t, url)
			_, err := db.Exec("CREATE TABLE mine (id int)")
			require.NoError(t, err, "another test's table was found")
		})
	}
}

func TestPostgresDropsTheDatabaseUnderOpenConnections(t *testing.T) {
	var url string
	t.Run("leaks", func(t *testing.T) {
		url = testdb.Postgres(t)
		leak, err := sql.Open("postgres", url)
		require.NoError(t, err)
		require.NoError(t, leak.Ping())
	})
	require.ErrorContains(t, open(t, url).Ping(), "3D000", "the SQLSTATE of an unknown database")
}

func TestPostgresWithoutAServerFails(t *testing.T) {
	for url, want := range map[string]string{
		"":                       "run it with `make test`",
		"host=localhost":         "is not a postgres:// URL",
		"postgres://127.0.0.1:1": "create a database on the server of TEST_DATABASE_URL",
	} {
		require.Contains(t, fatal(t, url), want)
	}
}

// fatal is what Postgres says to a test when TEST_DATABASE_URL is url.
func fatal(t *testing.T, url string) string {
	t.Setenv("TEST_DATABASE_URL", url)
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		testdb.Postgres(f)
	}()
	<-done
	return f.message
}

// failing is a test that keeps why it failed to itself.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Fatal(args ...any) {
	f.message = args[0].(string)
	runtime.Goexit()
}

func (f *failing) Fatalf(format string, _ ...any) { f.Fatal(format) }

func open(t *testing.T, url string) *sql.DB {
	t.Helper()
	driver, source := "postgres", url
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		driver, source = "sqlite", path
		_, err := os.Stat(path)
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	db, err := sql.Open(driver, source)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}
