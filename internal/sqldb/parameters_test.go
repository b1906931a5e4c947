package sqldb_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
)

// On each database, a list is one parameter, whatever its elements are.
func TestAListIsOneParameter(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		db := testkit.OpenStore(t, url).Database()
		names := []string{`plain`, `1`, `NULL`, `{a,b}`, `["a"]`, `a"b`, `a\b`, `<a&b>`, `ü 漢`, "a\u2028b", ``}
		for i, name := range names {
			_, err := db.ExecContext(t.Context(), db.SQL(`
				INSERT INTO reprise.instances (id, host, pid, build, handlers, heartbeat_interval, dead_after, lowest_run)
				VALUES ($1, '', $2, '', '[]', 1, 1, $3)`), name, i, math.MaxInt64-int64(i))
			require.NoError(t, err)
		}
		count := func(statement string, list any) (n int) {
			require.NoError(t, db.GetContext(t.Context(), &n, db.SQL(statement), list))
			return n
		}
		const byName = `SELECT count(*) FROM reprise.instances WHERE id = ANY ($1::text[])`
		require.Equal(t, len(names), count(byName, db.Texts(names)))
		for _, name := range names {
			require.Equal(t, 1, count(byName, db.Texts([]string{name})), name)
		}
		require.Zero(t, count(byName, db.Texts(nil)))
		const byRun = `SELECT count(*) FROM reprise.instances WHERE lowest_run = ANY ($1::bigint[])`
		require.Equal(t, 2, count(byRun, db.IDs([]int64{math.MaxInt64, math.MaxInt64 - 1, 0})))
		require.Zero(t, count(byRun, db.IDs(nil)))
	})
}

func TestRowsRepeatsTheRowOfParameters(t *testing.T) {
	t.Parallel()
	const statement = `INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT (a) DO NOTHING`
	require.Equal(t, statement, sqldb.Rows(statement, 1))
	require.Equal(t, `INSERT INTO t (a, b) VALUES (?, ?), (?, ?), (?, ?) ON CONFLICT (a) DO NOTHING`, sqldb.Rows(statement, 3))
}
