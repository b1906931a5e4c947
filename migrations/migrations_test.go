package migrations_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/database"
	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// source is a database and how it is opened.
type source struct {
	kind   dialect.Kind
	driver string // "" is what bus.Open does
	name   string
}

func (s source) open() (*sql.DB, error) {
	if s.driver == "" {
		return database.Open(s.name)
	}
	return sql.Open(s.driver, s.name)
}

// each runs f on an empty database of every kind and driver, as parallel
// subtests.
func each(t *testing.T, f func(t *testing.T, s source)) {
	t.Helper()
	for _, c := range []struct {
		name  string
		fresh func(t testing.TB) source
	}{
		{"postgres", func(t testing.TB) source { return source{dialect.Postgres, "", testdb.Postgres(t)} }},
		{"postgres, pgx", func(t testing.TB) source { return source{dialect.Postgres, "pgx", testdb.Postgres(t)} }},
		{"postgres, serializable by default", func(t testing.TB) source {
			return source{dialect.Postgres, "", testdb.Postgres(t)}.with("default_transaction_isolation=serializable")
		}},
		{"sqlite", func(t testing.TB) source { return source{dialect.SQLite, "", testdb.SQLite(t)} }},
		{"sqlite, without busy_timeout", bare},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f(t, c.fresh(t))
		})
	}
}

// bare is a SQLite file that is opened without any setting.
func bare(t testing.TB) source {
	return source{dialect.SQLite, "sqlite", "file:" + strings.TrimPrefix(testdb.SQLite(t), "sqlite:")}
}

// with adds a setting to those that the database is opened with.
func (s source) with(setting string) source {
	separator := "?"
	if strings.Contains(s.name, "?") {
		separator = "&"
	}
	s.name += separator + setting
	return s
}

func open(t *testing.T, s source) *sql.DB {
	t.Helper()
	db, err := s.open()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func TestUpIsIdempotent(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		before := recorded(t, db, s, "reprise")
		require.NotEmpty(t, before)
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		require.NoError(t, migrations.Check(t.Context(), db, ""))
		require.Equal(t, before, recorded(t, db, s, "reprise"))
	})
}

func TestSchemasDoNotMix(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		require.NoError(t, migrations.Up(t.Context(), db, "billing"))
		requireVersions(t, migrations.Check(t.Context(), db, ""), "reprise", 0)
		for _, name := range objects(t, db, s) {
			require.Contains(t, name, "billing")
		}
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		require.NoError(t, migrations.Check(t.Context(), db, "billing"))
		require.NoError(t, migrations.Check(t.Context(), db, ""))
	})
}

func TestCheckOnAnEmptyDatabaseSaysWhatToDo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		err := migrations.Check(t.Context(), db, "")
		requireVersions(t, err, "reprise", 0)
		require.ErrorContains(t, err, "call migrations.Up")
		require.Empty(t, objects(t, db, s))
	})
}

func TestVersionErrorSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for database, want := range map[int]string{
		0: `schema "billing" has no Reprise tables and this program needs version 3: call migrations.Up`,
		2: `schema "billing" is at version 2 and this program needs version 3: call migrations.Up`,
		4: `schema "billing" is at version 4 and this program knows versions up to 3: run a newer build of the program`,
	} {
		require.ErrorContains(t, &migrations.VersionError{Schema: "billing", Database: database, Program: 3}, want)
	}
}

func TestVersionsSaysWhatIsThereAndWhatIsNeeded(t *testing.T) {
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		have, want, err := migrations.Versions(t.Context(), db, "")
		require.NoError(t, err)
		require.Zero(t, have)
		require.Positive(t, want)
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		have, again, err := migrations.Versions(t.Context(), db, "")
		require.NoError(t, err)
		require.Equal(t, []int{want, want}, []int{have, again})
	})
}

func TestANewerDatabaseIsLeftAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		require.NoError(t, migrations.Up(t.Context(), db, "billing"))
		_, err := db.Exec(s.kind.Qualify("billing", `INSERT INTO reprise.migrations (version, name) VALUES (99, 'future')`))
		require.NoError(t, err)
		before := recorded(t, db, s, "billing")

		for _, refuse := range refusals {
			err := refuse(t.Context(), db, "billing")
			known := requireVersions(t, err, "billing", 99)
			require.ErrorContains(t, err, "is at version 99")
			require.ErrorContains(t, err, fmt.Sprintf("knows versions up to %d", known))
			require.ErrorContains(t, err, "run a newer build")
		}
		require.Equal(t, before, recorded(t, db, s, "billing"))
	})
}

// A table in the way makes the first migration fail when it has made others.
func TestAFailedMigrationLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		if s.kind == dialect.Postgres {
			_, err := db.Exec(`CREATE SCHEMA reprise`)
			require.NoError(t, err)
		}
		_, err := db.Exec(s.kind.Qualify("reprise", `CREATE TABLE reprise.operations (mine text)`))
		require.NoError(t, err)
		before := objects(t, db, s)

		require.ErrorContains(t, migrations.Up(t.Context(), db, ""), `migrate schema "reprise" to version`)
		require.Equal(t, before, objects(t, db, s))

		_, err = db.Exec(s.kind.Qualify("reprise", `DROP TABLE reprise.operations`))
		require.NoError(t, err)
		require.NoError(t, migrations.Up(t.Context(), db, ""), "the pool is usable and nothing is locked")
	})
}

func TestACancelledUpLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, migrations.Up(ctx, db, ""), context.Canceled)
		require.Empty(t, objects(t, db, s))
		require.NoError(t, migrations.Up(t.Context(), db, ""))
	})
}

func TestUpWaitsForALockedFileAsLongAsItMay(t *testing.T) {
	t.Parallel()
	s := bare(t)
	other, err := open(t, s).Conn(t.Context())
	require.NoError(t, err)
	defer other.Close()
	_, err = other.ExecContext(t.Context(), `BEGIN EXCLUSIVE`)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	db := open(t, s)
	require.ErrorIs(t, migrations.Up(ctx, db, ""), context.DeadlineExceeded)

	_, err = other.ExecContext(t.Context(), `ROLLBACK`)
	require.NoError(t, err)
	require.NoError(t, migrations.Up(t.Context(), db, ""))
}

func TestUpOnAnUpToDateDatabaseOnlyReads(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		require.NoError(t, migrations.Up(t.Context(), open(t, s), ""))
		readOnly := open(t, s.with(map[dialect.Kind]string{
			dialect.Postgres: "default_transaction_read_only=on",
			dialect.SQLite:   "_pragma=query_only(1)",
		}[s.kind]))
		_, err := readOnly.Exec(`CREATE TABLE written (id int)`)
		require.Error(t, err)
		require.NoError(t, migrations.Up(t.Context(), readOnly, ""))
	})
}

func TestUpGivesTheConnectionBackAsItWas(t *testing.T) {
	t.Parallel()
	db := open(t, bare(t).with("_pragma=busy_timeout(1234)"))
	db.SetMaxOpenConns(1)
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	var timeout int
	require.NoError(t, db.QueryRow(`PRAGMA busy_timeout`).Scan(&timeout))
	require.Equal(t, 1234, timeout)
}

// An administrator may keep the right to create schemas to himself.
func TestUpInASchemaThatAnAdministratorMade(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"", "pgx"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			superuser := testdb.Postgres(t)
			admin := open(t, source{dialect.Postgres, "", superuser})
			role := strings.TrimPrefix(databaseName(t, superuser), "reprise_test_")
			run := func(statement string) {
				t.Helper()
				_, err := admin.Exec(statement)
				require.NoError(t, err)
			}
			run(`CREATE ROLE "` + role + `" LOGIN PASSWORD 'secret'`)
			t.Cleanup(func() {
				run(`DROP OWNED BY "` + role + `"`)
				run(`DROP ROLE "` + role + `"`)
			})
			u, err := url.Parse(superuser)
			require.NoError(t, err)
			u.User = url.UserPassword(role, "secret")
			db := open(t, source{dialect.Postgres, driver, u.String()})

			err = migrations.Up(t.Context(), db, "billing")
			require.ErrorContains(t, err, `create schema "billing" (its creator needs CREATE on the database, or an administrator makes it)`)

			run(`CREATE SCHEMA billing`)
			run(`GRANT USAGE, CREATE ON SCHEMA billing TO "` + role + `"`)
			require.NoError(t, migrations.Up(t.Context(), db, "billing"))
			require.NoError(t, migrations.Check(t.Context(), db, "billing"))
		})
	}
}

func TestUpRefusesADatabaseThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	server := testdb.Postgres(t)
	name := databaseName(t, server) + "_ascii"
	admin := open(t, source{dialect.Postgres, "", server})
	_, err := admin.Exec(`CREATE DATABASE ` + name + ` ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0`)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := admin.Exec(`DROP DATABASE ` + name + ` WITH (FORCE)`)
		require.NoError(t, err)
	})
	u, err := url.Parse(server)
	require.NoError(t, err)
	u.Path = "/" + name
	ascii := source{dialect.Postgres, "", u.String()}
	db := open(t, ascii)
	require.ErrorContains(t, migrations.Up(t.Context(), db, ""), "the database is encoded as SQL_ASCII: Reprise keeps JSON as text and needs one that is encoded as UTF8")
	require.Empty(t, objects(t, db, ascii))
}

func TestABadSchemaIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		for _, schema := range []string{"Billing", "a-b", `x"; DROP TABLE y; --`} {
			require.ErrorContains(t, migrations.Up(t.Context(), db, schema), "want 1 to 40 lower-case letters")
			require.ErrorContains(t, migrations.Check(t.Context(), db, schema), "want 1 to 40 lower-case letters")
		}
		require.Empty(t, objects(t, db, s))
	})
}

// What refuses tables that must be left alone.
var refusals = []func(context.Context, *sql.DB, string) error{migrations.Up, migrations.Check}

func databaseName(t *testing.T, postgresURL string) string {
	t.Helper()
	u, err := url.Parse(postgresURL)
	require.NoError(t, err)
	return strings.TrimPrefix(u.Path, "/")
}

// requireVersions checks that err says which versions do not fit, and returns
// the program's.
func requireVersions(t *testing.T, err error, schema string, database int) (program int) {
	t.Helper()
	var mismatch *migrations.VersionError
	require.ErrorAs(t, err, &mismatch)
	require.Equal(t, schema, mismatch.Schema)
	require.Equal(t, database, mismatch.Database)
	require.Positive(t, mismatch.Program)
	return mismatch.Program
}

// recorded returns what the table of versions says.
func recorded(t *testing.T, db *sql.DB, s source, schema string) []string {
	t.Helper()
	return queryColumn(t, db, s.kind.Qualify(schema, `SELECT version || ' ' || name || ' ' || applied_at FROM reprise.migrations ORDER BY version`))
}

// objects returns the names of whatever is in the database.
func objects(t *testing.T, db *sql.DB, s source) []string {
	t.Helper()
	if s.kind == dialect.SQLite {
		return queryColumn(t, db, `SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name`)
	}
	return queryColumn(t, db, `
		SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE nspname NOT LIKE 'pg_%' AND nspname <> 'information_schema'
		UNION SELECT nspname FROM pg_namespace
		WHERE nspname NOT LIKE 'pg_%' AND nspname NOT IN ('information_schema', 'public')
		ORDER BY 1`)
}

func queryColumn(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.Query(query)
	require.NoError(t, err)
	defer rows.Close()
	var values []string
	for rows.Next() {
		var v string
		require.NoError(t, rows.Scan(&v))
		values = append(values, v)
	}
	require.NoError(t, rows.Err())
	return values
}

// A migration counts no failures of the past, but says that they are to be counted.
func TestFailuresOfBeforeTheGroupsAreCountedByAndBy(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		require.NoError(t, migrations.UpTo(t.Context(), db, "", 2))
		exec := func(statement string) {
			t.Helper()
			_, err := db.Exec(s.kind.Qualify("reprise", statement))
			require.NoError(t, err)
		}
		const at = `'2026-01-01T00:00:00.000Z'`
		for _, failure := range []string{`'1', 'error'`, `'2', 'error'`, `'3', 'panic'`} {
			exec(`INSERT INTO reprise.handler_runs (topic, handler, status, finished_at, failed_at, fingerprint, event_id, error_kind)
				VALUES ('topic', 'handler', 'FAILED', ` + at + `, ` + at + `, NULL, ` + failure + `)`)
		}
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		st, err := store.New(t.Context(), db, "")
		require.NoError(t, err)
		g, err := st.Grouping(t.Context(), store.Filter{})
		require.NoError(t, err)
		require.True(t, g.Counting)
		require.Empty(t, g.Groups)

		// One is replayed before it is counted.
		exec(`UPDATE reprise.handler_runs SET status = 'SUCCESS', failed_at = NULL WHERE event_id = '1'`)
		for more := true; more; {
			more, err = operate.On(st).CountFailures(t.Context())
			require.NoError(t, err)
		}
		g, err = st.Grouping(t.Context(), store.Filter{})
		require.NoError(t, err)
		require.False(t, g.Counting)
		require.Len(t, g.Groups, 2)
		for i, kind := range []store.Kind{store.KindPanic, store.KindError} {
			require.Equal(t, kind, g.Groups[i].Kind)
			require.Equal(t, store.Count{N: 1}, g.Groups[i].Runs)
		}
	})
}
