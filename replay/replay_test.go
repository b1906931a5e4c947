package replay_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func TestOne(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		failed := end(t, st, 1, store.Failed)[0]
		succeeded := end(t, st, 1, store.Success)[0]

		done, err := replay.One(t.Context(), st, failed, replay.Request{By: "ops", Reason: "fixed"})
		require.NoError(t, err)
		require.EqualValues(t, 1, done.Taken)
		run, err := st.Run(t.Context(), failed)
		require.NoError(t, err)
		require.Equal(t, store.Pending, run.Status)
		require.Equal(t, done.ID, run.ReplayID)

		_, err = replay.One(t.Context(), st, failed, replay.Request{})
		require.ErrorIs(t, err, replay.ErrNotFailed)
		require.ErrorContains(t, err, fmt.Sprintf("run %d is PENDING", failed))
		_, err = replay.One(t.Context(), st, succeeded, replay.Request{})
		require.ErrorContains(t, err, fmt.Sprintf("run %d is SUCCESS", succeeded))
		_, err = replay.One(t.Context(), st, 4711, replay.Request{})
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}

func TestAllThatMatchNotAPageOfThem(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		end(t, st, 60, store.Failed)
		kept := end(t, st, 3, store.Success)

		done, err := replay.All(t.Context(), st, store.Filter{Handler: "handler", Limit: 10}, replay.Request{})
		require.NoError(t, err)
		require.EqualValues(t, 60, done.Taken)
		require.NotEmpty(t, done.RequestedBy, "somebody asked for it")
		require.False(t, done.RequestedAt.IsZero())
		for _, id := range kept {
			run, err := st.Run(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, store.Success, run.Status)
		}
	})
}

func TestWhatIsNotAskedForByNameIsRefused(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		end(t, st, 1, store.Failed)
		_, err := replay.All(t.Context(), st, store.Filter{Limit: 5}, replay.Request{})
		require.ErrorIs(t, err, replay.ErrEmptySelection)
		_, err = replay.All(t.Context(), st, store.Filter{Status: store.Success}, replay.Request{})
		require.ErrorContains(t, err, "--even-successful")
		_, err = replay.All(t.Context(), st, store.Filter{Status: "failed"}, replay.Request{})
		require.ErrorContains(t, err, `status "failed": want one of`)

		done, err := replay.All(t.Context(), st, store.Filter{Status: store.Failed}, replay.Request{})
		require.NoError(t, err)
		require.EqualValues(t, 1, done.Taken)
	})
}

func TestAHandlerThatNobodyHasIsRefused(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		run, err := queue.Of(st).Record(t.Context(), store.Event{ID: "e", Topic: "topic", Source: "kafka.Subscriber"}, "gone", "instance", false)
		require.NoError(t, err)
		_, err = queue.Of(st).End(t.Context(), []queue.Outcome{{Lease: queue.LeaseOf(run), Status: store.Failed, Failure: &store.Failure{Kind: store.KindError}}})
		require.NoError(t, err)

		_, err = replay.One(t.Context(), st, run.ID, replay.Request{})
		require.ErrorContains(t, err, "no subscription for handler gone")
		run, err = st.Run(t.Context(), run.ID)
		require.NoError(t, err)
		require.Equal(t, store.Failed, run.Status)
	})
}

func TestACancelledContextReplaysNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		id := end(t, st, 1, store.Failed)[0]
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := replay.All(ctx, st, store.Filter{Handler: "handler"}, replay.Request{})
		require.ErrorIs(t, err, context.Canceled)
		run, err := st.Run(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, store.Failed, run.Status)
	})
}

// end makes n runs that have ended, and returns their ids.
func end(t *testing.T, st *store.Store, n int, status store.Status) []int64 {
	t.Helper()
	ids := make([]int64, n)
	outcomes := make([]queue.Outcome, n)
	for i := range n {
		run, err := queue.Of(st).Record(t.Context(), store.Event{ID: fmt.Sprintf("%s-%d", status, i), Topic: "topic", Source: "test"}, "handler", "instance", false)
		require.NoError(t, err)
		ids[i] = run.ID
		outcomes[i] = queue.Outcome{Lease: queue.LeaseOf(run), Status: status}
		if status == store.Failed {
			outcomes[i].Failure = &store.Failure{Kind: store.KindError, Message: "it failed"}
		}
	}
	lost, err := queue.Of(st).End(t.Context(), outcomes)
	require.NoError(t, err)
	require.Empty(t, lost)
	return ids
}

func openStore(t *testing.T, url string) *store.Store {
	t.Helper()
	st := testkit.OpenStore(t, url)
	require.NoError(t, queue.Of(st).Subscribe(t.Context(), store.Subscription{Topic: "topic", Handler: "handler"}, ""))
	return st
}
