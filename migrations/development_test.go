package migrations_test

import (
	"archive/zip"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// Before the first release 0001_init.sql was changed in place:
// testdata/development.zip has every earlier form of it, the oldest first. The
// tables that those made call themselves version 1, too.
func TestTablesOfADevelopmentVersionAreRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		texts := developmentVersions(t, s.kind)
		require.NotEmpty(t, texts)
		for i, text := range texts {
			schema := "before" + string(rune('a'+i))
			asVersion1(t, db, s, schema, text)
			before := objects(t, db, s)

			want := []string{
				`schema "` + schema + `" has tables of version 1 that were made by a development version from before the first release, and cannot be upgraded`,
				"configure another schema, start again, and copy what you want to keep",
			}
			if s.kind == dialect.Postgres {
				want = append(want, `ALTER SCHEMA "`+schema+`" RENAME TO "`+schema+`_old"`)
			}
			for _, refuse := range refusals {
				err := refuse(t.Context(), db, schema)
				var shape *migrations.ShapeError
				require.ErrorAs(t, err, &shape, "the form %d of 0001_init.sql", i+1)
				require.Equal(t, schema, shape.Schema)
				require.Equal(t, 1, shape.Version)
				require.NotEmpty(t, shape.Differences)
				for _, said := range want {
					require.ErrorContains(t, err, said)
				}
			}
			require.Equal(t, before, objects(t, db, s))
		}
	})
}

func TestShapeErrorNamesWhatDiffers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		db := open(t, s)
		texts := developmentVersions(t, s.kind)
		asVersion1(t, db, s, "first", texts[0])
		require.ErrorContains(t, migrations.Check(t.Context(), db, "first"), "events has no column amends; handler_runs has no column discarded_at; ")
		require.ErrorContains(t, migrations.Check(t.Context(), db, "first"), "; and ")
		asVersion1(t, db, s, "last", texts[len(texts)-1])
		differences, err := migrations.Differences(t.Context(), db, "last")
		require.NoError(t, err)
		text := map[dialect.Kind]string{dialect.Postgres: "timestamp with time zone", dialect.SQLite: "TEXT"}[s.kind]
		require.Equal(t, []string{
			"handler_runs.discarded_at is " + text + " generated instead of " + text,
			"handler_runs.failed_at is " + text + " generated instead of " + text,
		}, differences)
	})
}

// What docs/restoring.md says of such tables keeps events and runs.
func TestTablesOfADevelopmentVersionAreMovedAway(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../docs/restoring.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(docs), "## Tables of a development version\n")
	require.True(t, found)
	blocks := regexp.MustCompile("(?s)```(sql|sh)\n(.*?)```").FindAllStringSubmatch(section, -1)
	require.Equal(t, []string{"sql", "sh", "sql"}, []string{blocks[0][1], blocks[1][1], blocks[2][1]})
	require.Equal(t, "reprise migrate up\n", blocks[1][2])

	for i, text := range developmentVersions(t, dialect.Postgres) {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			t.Parallel()
			s := source{dialect.Postgres, "", testdb.Postgres(t)}
			db := open(t, s)
			run := func(statements string) {
				t.Helper()
				_, err := db.Exec(statements)
				require.NoError(t, err)
			}
			asVersion1(t, db, s, "reprise", text)
			run(`INSERT INTO reprise.subscriptions (topic, handler) VALUES ('t', 'h');
				INSERT INTO reprise.events (id, topic, payload) SELECT n::text, 't', '{}' FROM generate_series(1, 5) n;
				INSERT INTO reprise.handler_runs (event_id, topic, handler, status, due_at, instance, finished_at, error_kind) VALUES
				('1', 't', 'h', 'PENDING', now(), NULL, NULL, NULL), ('2', 't', 'h', 'PENDING', NULL, 'gone', NULL, NULL),
				('3', 't', 'h', 'SUCCESS', NULL, 'gone', now(), NULL), ('4', 't', 'h', 'FAILED', NULL, 'gone', now(), 'error'),
				('5', 't', 'h', 'DISCARDED', NULL, 'gone', now(), 'error')`)
			var shape *migrations.ShapeError
			require.ErrorAs(t, migrations.Up(t.Context(), db, ""), &shape)

			run(blocks[0][2])
			require.NoError(t, migrations.Up(t.Context(), db, ""))
			run(blocks[2][2])
			st, err := store.New(t.Context(), db, "")
			require.NoError(t, err)
			contradictory, err := st.Contradictory(t.Context(), 10)
			require.NoError(t, err)
			require.Empty(t, contradictory)
			require.Equal(t, []string{"1 PENDING due", "2 PENDING due", "3 SUCCESS", "4 FAILED", "5 DISCARDED"}, queryColumn(t, db,
				`SELECT event_id || ' ' || status || CASE WHEN due_at <= now() THEN ' due' ELSE '' END FROM reprise.handler_runs ORDER BY id`))
			require.Equal(t, []string{"5"}, queryColumn(t, db, `SELECT count(*) FROM reprise.events`))
			require.Equal(t, []string{"h"}, queryColumn(t, db, `SELECT handler FROM reprise.subscriptions`))
		})
	}
}

func developmentVersions(t *testing.T, kind dialect.Kind) (texts []string) {
	t.Helper()
	archive, err := zip.OpenReader("testdata/development.zip")
	require.NoError(t, err)
	defer archive.Close()
	for _, file := range archive.File {
		if strings.TrimSuffix(path.Base(file.Name), ".sql") != string(kind) {
			continue
		}
		f, err := file.Open()
		require.NoError(t, err)
		text, err := io.ReadAll(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		texts = append(texts, string(text))
	}
	return texts
}
