package migrations_test

import (
	"crypto/sha256"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
)

var update = flag.Bool("update", false, "add the columns and the checksum of a new migration to the files that freeze it")

const frozen = "checksums.txt"

// checksums.txt is in the format of sha256sum. A line of it is never changed:
// databases of our users record the checksum.
func TestMigrationsAreFrozen(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(frozen)
	require.NoError(t, err)
	sums := map[string]string{}
	for line := range strings.Lines(string(text)) {
		sum, file, found := strings.Cut(strings.TrimSpace(line), "  ")
		require.True(t, found, "%s: %q is no line of sha256sum", frozen, line)
		sums[file] = sum
	}
	all, err := filepath.Glob("*/*.sql")
	require.NoError(t, err)
	for _, file := range all {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		sum := fmt.Sprintf("%x", sha256.Sum256(text))
		if *update && sums[file] == "" {
			lines, err := os.OpenFile(frozen, os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = fmt.Fprintf(lines, "%s  %s\n", sum, file)
			require.NoError(t, err)
			require.NoError(t, lines.Close())
			continue
		}
		require.Equal(t, sums[file], sum, "%s is not as %s has it. A migration that is committed never changes: make a new one. A new one is added to the file by go test ./migrations -run Frozen -update", file, frozen)
		delete(sums, file)
	}
	if !*update {
		require.Empty(t, sums, "these migrations are in %s and are gone", frozen)
	}
}

// The files NNNN_name.columns say which tables each version makes: a database
// that has no checksum is recognised by them.
func TestTheColumnsOfEachVersionAreFrozen(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		kind := kindOf(url)
		names, err := migrations.Names(kind)
		require.NoError(t, err)
		db := testdb.Open(t, url)
		for i, name := range names {
			require.NoError(t, migrations.UpTo(t.Context(), db, "", i+1))
			lines, err := migrations.Columns(t.Context(), db, "")
			require.NoError(t, err)
			made, file := strings.Join(lines, ""), filepath.Join(string(kind), name+".columns")
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(made), 0o644))
				continue // this test binary has embedded the file as it was
			}
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(text), made, file)
			differences, err := migrations.Differences(t.Context(), db, "")
			require.NoError(t, err)
			require.Empty(t, differences)
		}
	})
}

func TestEachMigrationHasItsChecksumInTheDatabase(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		require.NoError(t, migrations.Up(t.Context(), db, "billing"))
		require.Equal(t, sumsOf(t, s), recordedSums(t, db, s, "billing"))
	})
}

// The tables of version 1 were made by programs that recorded no checksum.
func TestADatabaseOfVersion1GetsItsChecksums(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		version1(t, db, s, "reprise")
		for _, mine := range []string{
			`ALTER TABLE reprise.handler_runs ADD COLUMN tenant text`,
			`CREATE TABLE reprise.mine (id text)`,
		} {
			_, err := db.Exec(s.kind.Qualify("reprise", mine))
			require.NoError(t, err)
		}

		requireVersions(t, migrations.Check(t.Context(), db, ""), "reprise", 1)
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		require.NoError(t, migrations.Check(t.Context(), db, ""))
		require.Equal(t, sumsOf(t, s), recordedSums(t, db, s, "reprise"))
	})
}

// Builds between the migration and the checksum left this behind.
func TestADatabaseOfThisVersionWithoutChecksumsGetsThem(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		_, err := db.Exec(s.kind.Qualify("reprise", `ALTER TABLE reprise.migrations DROP COLUMN checksum`))
		require.NoError(t, err)
		require.NoError(t, migrations.Check(t.Context(), db, ""))
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		require.Equal(t, sumsOf(t, s), recordedSums(t, db, s, "reprise"))
	})
}

func TestADatabaseOfOtherMigrationsIsLeftAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		_, err := db.Exec(s.kind.Qualify("reprise", `UPDATE reprise.migrations SET checksum = 'abc' WHERE version = 1`))
		require.NoError(t, err)
		for _, refuse := range refusals {
			err := refuse(t.Context(), db, "")
			var mismatch *migrations.ChecksumError
			require.ErrorAs(t, err, &mismatch)
			require.Equal(t, migrations.ChecksumError{Schema: "reprise", Version: 1, Name: "init", Database: "abc", Program: sumsOf(t, s)[0]}, *mismatch)
			require.ErrorContains(t, err, `run the build that made them, or configure another schema`)
		}
	})
}

// Whoever changed a column of a database that has its checksums knows why. doctor
// tells.
func TestAColumnThatAnAdministratorChangedStopsNothing(t *testing.T) {
	t.Parallel()
	db := testdb.Open(t, testdb.Postgres(t))
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	_, err := db.Exec(`ALTER TABLE reprise.handler_runs ALTER COLUMN error TYPE varchar(9000)`)
	require.NoError(t, err)
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	require.NoError(t, migrations.Check(t.Context(), db, ""))
	differences, err := migrations.Differences(t.Context(), db, "")
	require.NoError(t, err)
	require.Equal(t, []string{"handler_runs.error is character varying(9000) instead of text"}, differences)
}

// version1 makes the tables as the program of version 1 did.
func version1(t *testing.T, db *sql.DB, s source, schema string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(string(s.kind), "0001_init.sql"))
	require.NoError(t, err)
	asVersion1(t, db, s, schema, string(text))
}

// asVersion1 makes tables that call themselves version 1.
func asVersion1(t *testing.T, db *sql.DB, s source, schema, init string) {
	t.Helper()
	all := []string{
		`CREATE TABLE reprise.migrations (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`,
		init,
		`INSERT INTO reprise.migrations (version, name) VALUES (1, 'init')`,
	}
	if s.kind == dialect.Postgres {
		all = append([]string{`CREATE SCHEMA ` + schema}, all...)
	} else {
		all[0] = `CREATE TABLE reprise.migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL DEFAULT 'then') STRICT`
	}
	for _, statement := range all {
		_, err := db.Exec(s.kind.Qualify(schema, statement))
		require.NoError(t, err)
	}
}

func sumsOf(t *testing.T, s source) (sums []string) {
	t.Helper()
	all, err := filepath.Glob(string(s.kind) + "/*.sql")
	require.NoError(t, err)
	for _, file := range all {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		sums = append(sums, fmt.Sprintf("%x", sha256.Sum256(text)))
	}
	return sums
}

func recordedSums(t *testing.T, db *sql.DB, s source, schema string) []string {
	t.Helper()
	return queryColumn(t, db, s.kind.Qualify(schema, `SELECT coalesce(checksum, 'none') FROM reprise.migrations ORDER BY version`))
}

func kindOf(url string) dialect.Kind {
	if strings.HasPrefix(url, "sqlite:") {
		return dialect.SQLite
	}
	return dialect.Postgres
}
