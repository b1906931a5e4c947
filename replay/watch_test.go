package replay_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func TestAWatchFindsEachRunOnceAsItFails(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		failed(t, st, "before")
		watch, err := replay.NewWatch(t.Context(), st, store.Filter{Status: store.Failed})
		require.NoError(t, err)
		look := func() (ids []int64) {
			t.Helper()
			runs, _, err := watch.Look(t.Context())
			require.NoError(t, err)
			for _, r := range runs {
				ids = append(ids, r.ID)
			}
			return ids
		}
		require.Empty(t, look())
		first, second := failed(t, st, "first"), failed(t, st, "second")
		end(t, st, 1, store.Success)
		require.Equal(t, []int64{first, second}, look())
		require.Empty(t, look())
		require.False(t, watch.Partial())
	})
}

// However long ago the last look was, a run that failed since is found.
func TestAWatchLooksBackToItsLastLook(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		watch, err := replay.NewWatch(t.Context(), st, store.Filter{Status: store.Failed})
		require.NoError(t, err)
		watch.Rewind(time.Hour)
		id := failed(t, st, "handler")
		now, err := st.Clock(t.Context())
		require.NoError(t, err)
		table := "reprise.handler_runs"
		if strings.HasPrefix(url, "sqlite:") {
			table = "reprise_handler_runs"
		}
		_, err = st.DB().ExecContext(t.Context(), "UPDATE "+table+" SET finished_at = $1, failed_at = $1", now.Add(-time.Hour/2).UTC().Format("2006-01-02T15:04:05.000Z"))
		require.NoError(t, err)
		runs, _, err := watch.Look(t.Context())
		require.NoError(t, err)
		require.Len(t, runs, 1)
		require.Equal(t, id, runs[0].ID)
	})
}
