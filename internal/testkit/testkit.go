// Package testkit is what tests of several packages do with a store and with channels.
package testkit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// Patience is how long a test waits for what is to come.
const Patience = time.Minute

// OpenStore makes the tables in a database and returns its store.
func OpenStore(t testing.TB, url string) *store.Store {
	t.Helper()
	db := testdb.Open(t, url)
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	st, err := store.New(t.Context(), db, "")
	require.NoError(t, err)
	return st
}

// Table returns the name of a table in the store's database.
func Table(st *store.Store, name string) string {
	return st.Database().Kind().Qualify(st.Schema(), "reprise."+name)
}

// Receive returns what comes next, within Patience, or the zero value of a channel
// that is closed.
func Receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Patience):
		t.Fatalf("nothing came within %v", Patience)
		panic("unreachable")
	}
}

// WaitForRun waits until the filter selects one run, and returns it.
func WaitForRun(t testing.TB, st *store.Store, f store.Filter) store.Run {
	t.Helper()
	var found []store.Run
	require.Eventually(t, func() bool {
		var err error
		found, err = st.Runs(t.Context(), f)
		return err == nil && len(found) == 1
	}, Patience, time.Millisecond, "%+v selects no run, or several", f)
	return found[0]
}

// WaitForStatus waits until so many runs of the handler have the status.
func WaitForStatus(t testing.TB, st *store.Store, handler string, status store.Status, n int) {
	t.Helper()
	count := 0
	require.Eventually(t, func() bool {
		err := st.DB().GetContext(t.Context(), &count, `SELECT count(*) FROM `+Table(st, "handler_runs")+` WHERE handler = $1 AND status = $2`, handler, string(status))
		return err == nil && count == n
	}, Patience, 5*time.Millisecond, "%s runs are %s, want %d", handler, status, n)
}

// RequireCount requires that a table has so many rows.
func RequireCount(t testing.TB, st *store.Store, table string, want int) {
	t.Helper()
	require.Equal(t, want, Count(t, st, table), table)
}

// Count returns how many rows a table has.
func Count(t testing.TB, st *store.Store, table string) (n int) {
	t.Helper()
	require.NoError(t, st.DB().GetContext(t.Context(), &n, `SELECT count(*) FROM `+Table(st, table)))
	return n
}
