package cli

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/health"
	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// A sequence that is behind is found, and the statement that doctor prints
// mends it, in every schema.
func TestDoctorMendsSequences(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, address string) {
		d := inSchema(t, address, "billing")
		require.NoError(t, d.Register(t.Context(), store.Instance{ID: "host/1/abc", DeadAfter: time.Hour, Handlers: []string{"mail"}}))
		d.subscribe("mail")
		runs := d.failed("mail", 3)
		d.outbox("orders", 2, true)
		doctor := func() result {
			return reprise(t.Context(), t, map[string]string{"REPRISE_DATABASE_URL": address, "REPRISE_SCHEMA": "billing"}, strings.NewReader(""), "doctor", "-o", "json")
		}
		require.Equal(t, health.OK, severities(t, doctor())["sequences"])
		for _, statement := range loseSequences[d.kind()] {
			d.run(statement)
		}

		r := doctor()
		found := checkOf(t, r, "sequences")
		require.Equal(t, health.Critical, found.Severity)
		require.Equal(t, exitCritical, r.code)
		for _, table := range []string{"handler_runs (next ", "operations (next 1, highest 70)"} {
			require.Contains(t, found.Text, table)
		}
		if d.kind() == dialect.Postgres {
			require.Contains(t, found.Text, fmt.Sprintf("handler_runs (next 1, highest %d), run_attempts (next 2, highest 3), operations (next 1, highest 70), outbox (next 1, highest 2)", runs[2]))
			_, err := d.DB().Exec(d.sql(`INSERT INTO reprise.handler_runs (event_id, topic, handler) VALUES ('new', 'user.signed_up', 'mail')`))
			require.ErrorContains(t, err, "handler_runs_pkey")
		}
		_, mend, cut := strings.Cut(found.Advice, ":\n")
		require.True(t, cut)
		d.run(mend)
		require.Equal(t, health.OK, checkOf(t, doctor(), "sequences").Severity)
		d.failed("mail", 1)
		d.outbox("invoices", 1, true)
	})
}

// How the sequences fall behind; and a number that only another table knows.
var loseSequences = map[dialect.Kind][]string{
	dialect.Postgres: {
		`ALTER TABLE reprise.handler_runs ALTER COLUMN id RESTART`,
		`ALTER TABLE reprise.run_attempts ALTER COLUMN id RESTART WITH 2`,
		`ALTER TABLE reprise.outbox ALTER COLUMN id RESTART`,
		`INSERT INTO reprise.operation_runs (operation_id, place, run_id, status, attempt, cycle, tries) VALUES (70, 1, 1, 'FAILED', 1, 1, 1)`,
	},
	dialect.SQLite: {
		`DELETE FROM sqlite_sequence`,
		`INSERT INTO reprise.operation_runs (operation_id, place, run_id, status, attempt, cycle, tries) VALUES (70, 1, 80, 'FAILED', 1, 1, 1)`,
	},
}

// The numbers are SQLite's rowids: the highest of the table counts as well.
func TestSQLiteNeedsNoSequence(t *testing.T) {
	t.Parallel()
	d := migrated(t, testdb.SQLite(t))
	d.subscribe("mail")
	d.failed("mail", 2)
	d.run(`DELETE FROM sqlite_sequence`)
	require.Equal(t, health.OK, checkOf(t, d.reprise("doctor", "-o", "json"), "sequences").Severity)
	d.failed("mail", 2)
}

// A role that only looks need not read the sequences.
func TestDoctorOfARoleThatMayNotReadSequences(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	d := migrated(t, address)
	u, err := url.Parse(address)
	require.NoError(t, err)
	role := strings.TrimPrefix(u.Path, "/reprise_test_")
	d.run(`CREATE ROLE "` + role + `" LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() {
		_, _ = d.DB().Exec(`DROP OWNED BY "` + role + `"`)
		_, _ = d.DB().Exec(`DROP ROLE "` + role + `"`)
	})
	d.run(`GRANT USAGE ON SCHEMA reprise TO "` + role + `"`)
	d.run(`GRANT SELECT ON ALL TABLES IN SCHEMA reprise TO "` + role + `"`)
	u.User = url.UserPassword(role, "secret")
	found := checkOf(t, on(t, u.String(), "doctor", "-o", "json"), "sequences")
	require.Equal(t, health.Finding{Check: "sequences", Severity: health.OK, Text: "this role may not read those of handler_runs, run_attempts, operations, outbox, actions: see GRANT SELECT ON ALL SEQUENCES IN SCHEMA reprise"}, found)
}

func TestDoctorFindsColumnsThatSomebodyChanged(t *testing.T) {
	t.Parallel()
	d := migrated(t, testdb.Postgres(t))
	d.run(`ALTER TABLE reprise.topics ADD COLUMN owner text`)
	require.Equal(t, health.OK, checkOf(t, d.reprise("doctor", "-o", "json"), "columns").Severity)
	d.run(`ALTER TABLE reprise.topics DROP COLUMN description`)
	found := checkOf(t, d.reprise("doctor", "-o", "json"), "columns")
	require.Equal(t, health.Warning, found.Severity)
	require.Contains(t, found.Text, "topics has no column description")
}

// Tables that are not to be upgraded are told apart from a database that is
// down, by every command.
func TestTablesThatOtherMigrationsMade(t *testing.T) {
	t.Parallel()
	eachDB(t, func(t *testing.T, d *db) {
		d.run(`UPDATE reprise.migrations SET checksum = NULL`)
		d.run(`ALTER TABLE reprise.topics DROP COLUMN description`)
		refused := func(why string) {
			t.Helper()
			for _, command := range [][]string{{"migrate", "up"}, {"migrate", "status"}, {"runs", "list"}} {
				r := d.reprise(command...).fails(exitFailed, why)
				require.NotContains(t, r.errs, "whether the database is up")
			}
			require.Contains(t, checkOf(t, d.reprise("doctor", "-o", "json").fails(exitCritical, ""), "database").Text, why)
		}
		refused("cannot be upgraded: topics has no column description: ")
		var status struct {
			UpToDate bool `json:"up_to_date"`
		}
		d.reprise("migrate", "status", "-o", "json").json(&status)
		require.False(t, status.UpToDate)
		d.run(`UPDATE reprise.migrations SET checksum = 'abc'`)
		refused(`migration 0001 was applied from a file with the SHA-256 "abc"`)
	})
}

// inSchema is a database whose tables are in that schema.
func inSchema(t *testing.T, address, schema string) *db {
	t.Helper()
	pool := testdb.Open(t, address)
	require.NoError(t, migrations.Up(t.Context(), pool, schema))
	st, err := store.New(t.Context(), pool, schema)
	require.NoError(t, err)
	return &db{st, queue.Of(st), operate.On(st), t, address}
}

func (d *db) kind() dialect.Kind {
	if strings.HasPrefix(d.url, "sqlite:") {
		return dialect.SQLite
	}
	return dialect.Postgres
}

func (d *db) sql(statement string) string { return d.kind().Qualify(d.Schema(), statement) }

// run runs statements without parameters.
func (d *db) run(statements string) {
	d.t.Helper()
	_, err := d.DB().Exec(d.sql(statements))
	require.NoError(d.t, err, statements)
}

func checkOf(t *testing.T, r result, name string) health.Finding {
	t.Helper()
	var found struct{ Checks []health.Finding }
	r.json(&found)
	for _, c := range found.Checks {
		if c.Check == name {
			return c
		}
	}
	require.Fail(t, "doctor has not looked at "+name, r.out)
	return health.Finding{}
}

func TestDoctorShowsTopicsThatNobodyIsSubscribedTo(t *testing.T) {
	testdb.Each(t, func(t *testing.T, address string) {
		d := migrated(t, address)
		d.subscribe("mail")
		d.failed("mail", 1)
		require.Equal(t, health.OK, checkOf(t, d.reprise("doctor", "-o", "json"), "topics").Severity)
		d.run(`INSERT INTO reprise.events (id, topic, payload) VALUES ('1', 'user.singed_up', '{}'), ('2', 'user.singed_up', '{}')`)
		found := checkOf(t, d.reprise("doctor", "-o", "json"), "topics")
		require.Equal(t, health.Warning, found.Severity)
		require.Contains(t, found.Text, "no handler is subscribed to user.singed_up (2 events)")
		require.Contains(t, found.Advice, "reprise backfill")
	})
}
