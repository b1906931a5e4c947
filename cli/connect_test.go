package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
)

// on runs a command on whatever a URL names.
func on(t *testing.T, url string, args ...string) result {
	t.Helper()
	return reprise(t.Context(), t, map[string]string{"REPRISE_DATABASE_URL": url}, strings.NewReader(""), args...)
}

func TestWithoutADatabaseItSaysHowToGiveOne(t *testing.T) {
	t.Parallel()
	on(t, "", "runs", "list").fails(exitUsage, "set REPRISE_DATABASE_URL, or --database-url, to postgres://user:password@host:5432/database")
	on(t, "mysql://root:secret@localhost/db", "runs", "list").fails(exitUsage, `scheme "mysql" is not supported: want postgres://`)
	on(t, "nonsense", "runs", "list").fails(exitUsage, "want postgres://")
}

func TestNoPasswordIsEverPrinted(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"postgres://ops:secret@127.0.0.1:1/db", "postgres://ops:secret@127.0.0.1:port/db", "postgres://ops:secret@%zz/db",
		"postgres://ops:secret@127.0.0.1:1/db?sslmode=nonsense", "postgres://ops:se%cret@127.0.0.1:1/db", "mysql://ops:secret@h/db",
		"postgres://ops:sec@ret@127.0.0.1:1/db?connect_timeout=x",
	} {
		for _, r := range []result{
			on(t, url, "runs", "list"), on(t, url, "doctor"), on(t, url, "doctor", "-o", "json"), on(t, url, "migrate", "up"),
			on(t, "", "runs", "list", "--database-url", url), on(t, "", url), on(t, "", "runs", url), on(t, "", "runs", "show", url), on(t, "", "replays", "show", url),
		} {
			require.NotZero(t, r.code)
			require.NotContains(t, r.out+r.errs, "sec", url)
			require.NotContains(t, r.out+r.errs, "cret", url)
		}
	}
}

func TestADatabaseThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	on(t, "postgres://127.0.0.1:1/db?sslmode=disable", "runs", "list").fails(exitFailed, "see whether the database is up")
	require.ErrorContains(t, explain(context.DeadlineExceeded), "has not answered for 10s")
}

func TestNoFileIsMadeButByMigrateUp(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none.db")
	for _, command := range [][]string{
		{"runs", "list"}, {"runs", "replay", "1", "--yes"}, {"migrate", "status"}, {"publish", "topic", "{}"}, {"handlers", "list"},
		{"prune", "--older-than", "1d", "--yes"}, {"replays", "list"}, {"events", "list"}, {"backfill", "handler", "--yes"},
	} {
		for _, url := range []string{"sqlite:" + path, "sqlite://" + path + "?_pragma=cache_size(100)"} {
			on(t, url, command...).fails(exitFailed, "make the file with: reprise migrate up")
		}
		require.NoFileExists(t, path)
	}
	on(t, "sqlite:"+path, "doctor").fails(exitCritical, "")
	require.NoFileExists(t, path)
	on(t, "sqlite:"+path, "migrate", "up").ok()
	require.FileExists(t, path)
}

func TestAFileThatIsNoDatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "letter.txt")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("Dear Sir or Madam, ", 100)), 0o600))
	on(t, "sqlite:"+path, "runs", "list").fails(exitFailed, "file is not a database")
}

func TestTablesOfAnotherVersion(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		pool := testdb.Open(t, url)
		_, err := pool.ExecContext(t.Context(), `CREATE TABLE somebody_elses (id integer)`)
		require.NoError(t, err)
		on(t, url, "runs", "list").fails(exitFailed, "has no Reprise tables: make them with: reprise migrate up")
		on(t, url, "migrate", "status").fails(exitFailed, "reprise migrate up")
		require.Contains(t, on(t, url, "doctor").fails(exitCritical, "").out, "reprise migrate up")

		on(t, url, "migrate", "up").ok()
		on(t, url, "migrate", "up").ok()
		on(t, url, "migrate", "status").ok()
		on(t, url, "runs", "list").fails(exitNothing, "no run is selected")
		on(t, url, "runs", "list", "--schema", "other").fails(exitFailed, `schema "other" of the database has no Reprise tables`)
		on(t, url, "runs", "list", "--schema", "No Such").fails(exitUsage, "want 1 to 40 lower-case letters")

		d := migrated(t, url)
		d.exec(`INSERT INTO reprise.migrations (version, name) VALUES (99, 'future')`)
		on(t, url, "runs", "list").fails(exitFailed, "is at version 99 and this reprise knows versions up to")
		on(t, url, "migrate", "up").fails(exitFailed, "install a newer one")
		on(t, url, "migrate", "status").fails(exitFailed, "install a newer one")
	})
}

func TestOlderTables(t *testing.T) {
	t.Parallel()
	old := &migrations.VersionError{Schema: "reprise", Database: 1, Program: 2}
	require.ErrorContains(t, explain(errors.Join(old)), "bring it up with: reprise migrate up")
}

func TestAnotherSchema(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		env := map[string]string{"REPRISE_DATABASE_URL": url, "REPRISE_SCHEMA": "orders"}
		run := func(args ...string) result { return reprise(t.Context(), t, env, strings.NewReader(""), args...) }
		run("migrate", "up").ok()
		run("publish", "topic", "{}").ok()
		require.Contains(t, run("events", "list").ok().out, "topic")
		on(t, url, "events", "list").fails(exitFailed, `schema "reprise" of the database has no Reprise tables`)
	})
}
