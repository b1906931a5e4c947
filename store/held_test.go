package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// Compressing the list of the held runs would take longer than the claim that writes it.
func TestTheListOfHeldRunsIsNotCompressed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := migrated(t, testdb.Open(t, testdb.Postgres(t)), "")
	require.NoError(t, queue.Of(st).Register(ctx, store.Instance{ID: "a"}))
	held := make([]int64, 3000)
	for i := range held {
		held[i] = int64(i)
	}
	_, err := queue.Of(st).Heartbeat(ctx, nil, "a", queue.HeartbeatReport{Holding: &queue.Holding{Runs: held, Recent: 1 << 40}})
	require.NoError(t, err)
	var bytes int
	require.NoError(t, st.DB().Get(&bytes, `SELECT pg_column_size(held_runs) FROM reprise.instances WHERE id = 'a'`))
	require.GreaterOrEqual(t, bytes, 8*len(held))
}
