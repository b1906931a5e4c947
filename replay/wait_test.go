package replay_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func TestWaitReturnsWhenAnOperationIsOver(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		end(t, st, 2, store.Failed)
		o, err := replay.All(t.Context(), st, store.Filter{Status: store.Failed}, replay.Request{})
		require.NoError(t, err)
		var waiting []int64
		p, err := replay.Wait(t.Context(), st, o.ID, func(p store.Progress) {
			if waiting = append(waiting, p.Waiting); len(waiting) == 1 {
				_, err := replay.Cancel(t.Context(), st, o.ID, replay.Request{})
				require.NoError(t, err)
			}
		})
		require.NoError(t, err)
		require.True(t, p.Over())
		require.Equal(t, []int64{2, 0}, waiting)

		_, err = replay.Wait(t.Context(), st, 4711, nil)
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		end(t, st, 1, store.Failed)
		o, err := replay.All(t.Context(), st, store.Filter{Status: store.Failed}, replay.Request{})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		p, err := replay.Wait(ctx, st, o.ID, func(store.Progress) { cancel() })
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 1, p.Waiting, "what was read last")
		o, err = st.Operation(t.Context(), o.ID)
		require.NoError(t, err)
		require.Equal(t, store.Running, o.State)
	})
}
