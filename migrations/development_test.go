package migrations_test

import (
	"archive/zip"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
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

// What the error tells to do works.
func TestTablesOfADevelopmentVersionAreMovedAway(t *testing.T) {
	t.Parallel()
	s := source{dialect.Postgres, "", testdb.Postgres(t)}
	db := open(t, s)
	asVersion1(t, db, s, "reprise", developmentVersions(t, s.kind)[0])
	var shape *migrations.ShapeError
	require.ErrorAs(t, migrations.Up(t.Context(), db, ""), &shape)
	_, err := db.Exec(`ALTER SCHEMA "reprise" RENAME TO "reprise_old"`)
	require.NoError(t, err)
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	require.NoError(t, migrations.Check(t.Context(), db, ""))
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
