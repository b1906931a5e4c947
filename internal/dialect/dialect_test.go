package dialect_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/testdb"
)

func TestDetectAsksTheDatabase(t *testing.T) {
	t.Parallel()
	postgres := testdb.Postgres(t)
	for name, c := range map[string]struct {
		db   *sql.DB
		want dialect.Kind
	}{
		"postgres, lib/pq": {testdb.Open(t, postgres), dialect.Postgres},
		"postgres, pgx":    {open(t, "pgx", postgres), dialect.Postgres},
		"sqlite":           {testdb.Open(t, testdb.SQLite(t)), dialect.SQLite},
		"sqlite in memory": {open(t, "sqlite", ":memory:"), dialect.SQLite},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kind, err := dialect.Detect(t.Context(), c.db)
			require.NoError(t, err)
			require.Equal(t, c.want, kind)
		})
	}
}

func TestDetectSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	closed := testdb.Open(t, testdb.SQLite(t))
	require.NoError(t, closed.Close())

	for name, c := range map[string]struct {
		db   *sql.DB
		want string
	}{
		"nil":          {nil, "the database pool is nil: pass the *sql.DB of the application"},
		"closed":       {closed, "connect to the database: sql: database is closed"},
		"out of reach": {testdb.Open(t, "postgres://127.0.0.1:1/nobody?sslmode=disable"), "connect to the database: dial tcp 127.0.0.1:1"},
		"MySQL":        {sql.OpenDB(answers{"8.4.0"}), `unsupported database: "8.4.0"; Reprise runs on PostgreSQL 13 or later and on SQLite 3.37 or later`},
		"neither":      {sql.OpenDB(answers{}), "ask the database for its version: no such function"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := dialect.Detect(t.Context(), c.db)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, name == "MySQL", errors.Is(err, dialect.ErrUnsupported))
		})
	}
}

func TestDetectEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := dialect.Detect(ctx, testdb.Open(t, testdb.SQLite(t)))
	require.ErrorIs(t, err, context.Canceled)
}

func TestSchemaTakesNamesThatNeedNoQuotes(t *testing.T) {
	t.Parallel()
	for configured, want := range map[string]string{
		"":                      "reprise",
		"reprise":               "reprise",
		"billing":               "billing",
		"_b2_":                  "_b2_",
		strings.Repeat("a", 40): strings.Repeat("a", 40),
	} {
		schema, err := dialect.Schema(configured)
		require.NoError(t, err)
		require.Equal(t, want, schema)
	}
	for _, bad := range []string{
		strings.Repeat("a", 41), "Billing", "2nd", "a-b", "a.b", "a b", `a"b`, "a'b", "a\n", "ä", `x"; DROP SCHEMA public; --`,
	} {
		_, err := dialect.Schema(bad)
		require.ErrorContains(t, err, "want 1 to 40 lower-case letters, digits and underscores, not starting with a digit", bad)
	}
}

func TestQualifyNamesTheTables(t *testing.T) {
	t.Parallel()
	const statement = `SELECT 1 FROM reprise.events e JOIN reprise.handler_runs r ON r.event_id = e.id`
	for _, c := range []struct {
		kind         dialect.Kind
		schema, want string
	}{
		{dialect.Postgres, "reprise", `SELECT 1 FROM "reprise".events e JOIN "reprise".handler_runs r ON r.event_id = e.id`},
		{dialect.Postgres, "user", `SELECT 1 FROM "user".events e JOIN "user".handler_runs r ON r.event_id = e.id`},
		{dialect.SQLite, "reprise", `SELECT 1 FROM reprise_events e JOIN reprise_handler_runs r ON r.event_id = e.id`},
		{dialect.SQLite, "billing", `SELECT 1 FROM billing_events e JOIN billing_handler_runs r ON r.event_id = e.id`},
	} {
		require.Equal(t, c.want, c.kind.Qualify(c.schema, statement))
	}
}

func open(t *testing.T, driver, name string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, name)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// answers is a database that answers `SELECT version()` and nothing else.
type answers struct{ version string }

func (a answers) Connect(context.Context) (driver.Conn, error) { return a, nil }
func (a answers) Driver() driver.Driver                        { return nil }
func (a answers) Prepare(string) (driver.Stmt, error)          { return nil, driver.ErrSkip }
func (a answers) Begin() (driver.Tx, error)                    { return nil, driver.ErrSkip }
func (a answers) Close() error                                 { return nil }

func (a answers) QueryContext(_ context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	if a.version == "" || query != `SELECT version()` {
		return nil, errors.New("no such function")
	}
	return &row{value: a.version}, nil
}

type row struct{ value any }

func (r *row) Columns() []string { return []string{"version"} }
func (r *row) Close() error      { return nil }

func (r *row) Next(dest []driver.Value) error {
	if r.value == nil {
		return io.EOF
	}
	dest[0], r.value = r.value, nil
	return nil
}
