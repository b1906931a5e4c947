package store_test

import (
	"database/sql"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/storetest"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

func TestStore(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(t *testing.T) func(t *testing.T) *store.Store{
		"postgres": databases,
		"postgres, schemas, ids beyond 32 bits": func(t *testing.T) func(t *testing.T) *store.Store {
			db := testdb.Open(t, testdb.Postgres(t))
			open := schemas(db)
			return func(t *testing.T) *store.Store {
				st := open(t)
				for _, table := range []string{"handler_runs", "run_attempts", "operations", "outbox", "actions"} {
					exec(t, db, `ALTER TABLE `+st.Schema()+`.`+table+` ALTER COLUMN id RESTART WITH 5000000000`)
				}
				return st
			}
		},
		"sqlite": func(*testing.T) func(t *testing.T) *store.Store {
			return func(t *testing.T) *store.Store { return migrated(t, testdb.Open(t, testdb.SQLite(t)), "") }
		},
		"sqlite, prefix, an application's pool": func(*testing.T) func(t *testing.T) *store.Store {
			return func(t *testing.T) *store.Store { return migrated(t, openDeferred(t, testdb.SQLite(t)), "billing") }
		},
		"sqlite, settings of its own": func(*testing.T) func(t *testing.T) *store.Store {
			return func(t *testing.T) *store.Store { return migrated(t, openOddly(t, testdb.SQLite(t)), "") }
		},
		"sqlite, without any setting": func(*testing.T) func(t *testing.T) *store.Store {
			return func(t *testing.T) *store.Store { return migrated(t, openPlainly(t, testdb.SQLite(t)), "") }
		},
	}
	// A statement that the store prepares goes the same way in every mode of a
	// driver: one in which nothing else is prepared is enough beside the default.
	on := func(d testdb.Driver, options ...store.Option) func(t *testing.T) func(t *testing.T) *store.Store {
		return func(t *testing.T) func(t *testing.T) *store.Store {
			return schemas(d.Open(t, testdb.Postgres(t)), options...)
		}
	}
	for _, d := range testdb.Drivers() {
		kinds["postgres, unprepared, "+d.Name] = on(d, store.Unprepared())
		if d.Name == "pgx cache_statement" || d.Name == "pgx simple_protocol" {
			kinds["postgres, "+d.Name] = on(d)
		}
	}
	for _, d := range testdb.Drivers() {
		if d.Name == "lib/pq" || d.Name == "pgx cache_statement" {
			kinds["postgres, settings of its own, "+d.Name] = func(t *testing.T) func(t *testing.T) *store.Store {
				return schemas(d.Open(t, withSettings(t, testdb.Postgres(t))))
			}
		}
	}
	for name, open := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, open(t))
		})
	}
}

// openDeferred opens a pool as applications do: of many connections, whose
// transactions become writers when they write.
func openDeferred(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(url, "sqlite:")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=foreign_keys(1)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// openPlainly opens a pool with nothing but the name of the file: a rollback
// journal, no busy timeout, no foreign keys.
func openPlainly(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", strings.TrimPrefix(url, "sqlite:"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// openOddly opens a pool whose connections have every setting that changes what a
// statement does.
func openOddly(t *testing.T, url string) *sql.DB {
	t.Helper()
	pragmas := ""
	for _, pragma := range []string{
		"busy_timeout(10000)", "foreign_keys(0)", "recursive_triggers(1)", "reverse_unordered_selects(1)", "case_sensitive_like(1)",
		"defer_foreign_keys(1)", "ignore_check_constraints(1)", "trusted_schema(0)", "automatic_index(0)", "cell_size_check(1)",
		"legacy_alter_table(1)", "secure_delete(1)",
		"temp_store(1)", "synchronous(0)", "auto_vacuum(1)",
	} {
		pragmas += "&_pragma=" + pragma
	}
	db, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(url, "sqlite:")+"?"+pragmas)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// withSettings gives a database every setting that changes what a statement means
// or returns, or what follows from it.
func withSettings(t *testing.T, address string) string {
	t.Helper()
	db := testdb.Open(t, address)
	for _, setting := range []string{
		`search_path TO ''`, `standard_conforming_strings TO off`, `escape_string_warning TO off`, `backslash_quote TO on`,
		`bytea_output TO escape`, `transform_null_equals TO on`, `quote_all_identifiers TO on`,
		`TimeZone TO 'Asia/Kathmandu'`, `IntervalStyle TO sql_standard`, `extra_float_digits TO -15`,
		`default_transaction_isolation TO serializable`, `default_transaction_deferrable TO on`, `row_security TO off`,
		`check_function_bodies TO off`, `plan_cache_mode TO force_generic_plan`, `synchronize_seqscans TO off`,
	} {
		exec(t, db, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET `+strings.ReplaceAll(setting, "'", "''")+`', current_database()); END $$`)
	}
	return address
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		db := testdb.Open(t, url)
		_, err := store.New(t.Context(), nil, "")
		require.ErrorContains(t, err, "the database pool is nil: pass the *sql.DB of the application")
		_, err = store.New(t.Context(), db, "no-schema")
		require.ErrorContains(t, err, `schema "no-schema": want 1 to 40 lower-case letters`)

		var version *migrations.VersionError
		_, err = store.New(t.Context(), db, "")
		require.ErrorAs(t, err, &version)
		require.ErrorContains(t, err, `schema "reprise" has no Reprise tables`)
		require.ErrorContains(t, err, "call migrations.Up")
		migrated(t, db, "billing")
		_, err = store.New(t.Context(), db, "")
		require.ErrorAs(t, err, &version, "it is another schema that has them")

		require.NoError(t, db.Close())
		_, err = store.New(t.Context(), db, "billing")
		require.ErrorContains(t, err, "database is closed")
	})
}

func TestNewReadsTimesInEveryDateStyleOrSaysWhatToSet(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	db := testdb.Open(t, address)
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	exec(t, db, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET DateStyle TO German', current_database()); END $$`)
	for _, d := range testdb.Drivers() {
		_, err := store.New(t.Context(), d.Open(t, address), "")
		require.NoError(t, err, d.Name)
	}
	for _, mode := range []string{"exec", "simple_protocol"} {
		db, err := sql.Open("pgx", address+"&default_query_exec_mode="+mode)
		require.NoError(t, err)
		defer db.Close()
		_, err = store.New(t.Context(), db, "")
		require.ErrorContains(t, err, `DateStyle "German, DMY"`)
		require.ErrorContains(t, err, "add datestyle=ISO to the database URL")
	}
}

func TestNewRefusesSettingsThatChangeWhatItSends(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		`client_encoding TO 'LATIN1'`:         "client_encoding", // pgx says it itself in simple protocol
		`array_nulls TO off`:                  "array_nulls of the connection is off: want on",
		`session_replication_role TO replica`: "session_replication_role of the connection is replica: want origin",
	} {
		address := testdb.Postgres(t)
		db := testdb.Open(t, address)
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		exec(t, db, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET `+strings.ReplaceAll(setting, "'", "''")+`', current_database()); END $$`)
		for _, d := range testdb.Drivers() {
			_, err := store.New(t.Context(), d.Open(t, address), "")
			if strings.HasPrefix(setting, "client_encoding") && strings.HasPrefix(d.Name, "lib/pq") {
				require.NoError(t, err, "it sets its own")
				continue
			}
			require.ErrorContains(t, err, want, d.Name)
		}
	}
	for _, pragma := range []string{"full_column_names(1)", "short_column_names(0)"} {
		db, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(testdb.SQLite(t), "sqlite:")+"?_pragma="+pragma)
		require.NoError(t, err)
		defer db.Close()
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		_, err = store.New(t.Context(), db, "")
		require.ErrorContains(t, err, "full_column_names on, or short_column_names off")
	}
}

func TestNewKeepsThePoolAndTheSchema(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		db := testdb.Open(t, url)
		require.Equal(t, "reprise", migrated(t, db, "").Schema())
		st := migrated(t, db, "billing")
		require.Equal(t, "billing", st.Schema())
		require.Same(t, db, st.DB().DB)
	})
}

func TestParseStatusTakesTheWordsOfTheTables(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"PENDING", "SUCCESS", "FAILED", "DISCARDED"} {
		status, err := store.ParseStatus(word)
		require.NoError(t, err)
		require.Equal(t, store.Status(word), status)
		require.Contains(t, store.Statuses(), status)
	}
	require.Len(t, store.Statuses(), 4)
	for _, word := range []string{"", "failed", "FAILED ", "RUNNING"} {
		_, err := store.ParseStatus(word)
		require.ErrorContains(t, err, "want one of [PENDING SUCCESS FAILED DISCARDED]")
	}
}

func TestFilterValidateNamesEveryBadField(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	for _, good := range []store.Filter{
		{},
		{Limit: store.MaxLimit, Before: 1, IDs: make([]int64, store.MaxLimit), Status: store.Failed},
		{Since: noon}, {Until: noon}, {Since: noon, Until: noon.Add(1)},
	} {
		require.NoError(t, good.Validate())
	}
	for want, bad := range map[string]store.Filter{
		`status "failed": want one of`:    {Status: "failed"},
		"is not before until":             {Since: noon, Until: noon},
		"since 2026-07-01T12:00:00Z":      {Since: noon, Until: noon.Add(-1)},
		"1001 ids: want at most 1000":     {IDs: make([]int64, store.MaxLimit+1)},
		"before -1: want the id of a run": {Before: -1},
		"limit -1: want 1 to 1000":        {Limit: -1},
		"limit 1001: want 1 to 1000":      {Limit: 1001},
	} {
		require.ErrorContains(t, bad.Validate(), want)
	}
	all := store.Filter{Status: "?", Since: noon, Until: noon, Before: -1, Limit: -1}.Validate()
	for _, field := range []string{"filter: ", "status", "since", "before", "limit"} {
		require.ErrorContains(t, all, field)
	}
}

func TestAnEmptyFilterSelectsEverything(t *testing.T) {
	t.Parallel()
	require.True(t, store.Filter{}.Empty())
	require.True(t, store.Filter{Before: 1, Limit: 1}.Empty(), "a page selects nothing less")
	for _, f := range []store.Filter{
		{IDs: []int64{1}}, {Status: store.Failed}, {Handler: "h"}, {Topic: "t"}, {EventID: "e"}, {Key: "k"}, {Kind: store.KindPanic}, {Group: "0123456789abcdef"}, {Replay: 1},
		{Since: time.Now()}, {Until: time.Now()}, {Changed: time.Now()},
	} {
		require.False(t, f.Empty())
	}
}

// databases returns stores in the default schemas of a few databases, which is
// faster than one database for each.
func databases(t *testing.T) func(t *testing.T) *store.Store {
	free := make(chan *sql.DB, 4)
	for range cap(free) {
		free <- testdb.Open(t, testdb.Postgres(t))
	}
	return func(t *testing.T) *store.Store {
		db := <-free
		t.Cleanup(func() {
			defer func() { free <- db }()
			_, err := db.Exec(`DROP SCHEMA reprise CASCADE`)
			require.NoError(t, err)
		})
		return migrated(t, db, "")
	}
}

// schemas returns stores side by side in one database.
func schemas(db *sql.DB, options ...store.Option) func(t *testing.T) *store.Store {
	var n atomic.Int64
	return func(t *testing.T) *store.Store { return migrated(t, db, fmt.Sprint("billing_", n.Add(1)), options...) }
}

func migrated(t *testing.T, db *sql.DB, schema string, options ...store.Option) *store.Store {
	t.Helper()
	require.NoError(t, migrations.Up(t.Context(), db, schema))
	st, err := store.New(t.Context(), db, schema, options...)
	require.NoError(t, err)
	return st
}
