package replay_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func TestAPlanSaysWhatIsInTheWay(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		end(t, st, 3, store.Failed)
		failed(t, st, "gone")
		selection := store.Filter{Status: store.Failed}

		p, err := replay.Preview(t.Context(), st, selection, replay.Request{})
		require.NoError(t, err)
		require.Equal(t, "4 runs of handler (3), gone (1)", p.String())
		require.Equal(t, []any{"handler", int64(3), true, 0}, []any{p.Parts[0].Handler, p.Parts[0].Runs, p.Parts[0].Subscribed, p.Parts[0].Instances})
		require.EqualError(t, p.Refusal(), "no handler is subscribed for gone (1): register it with the bus, or select others")
		require.Equal(t, []string{
			"Nobody is subscribed, so that the replay will be refused: gone (1). Register the handler with the bus, or select others.",
			"No live instance serves handler (3): what is replayed waits until one does.",
		}, p.Obstacles())
		_, err = replay.All(t.Context(), st, selection, replay.Request{})
		require.ErrorContains(t, err, "no subscription for handler gone", "All refuses what the plan says")

		discard, err := replay.PreviewDiscard(t.Context(), st, selection, replay.Request{})
		require.NoError(t, err)
		require.Equal(t, p.Parts, discard.Parts)
		require.NoError(t, discard.Refusal())
		require.Empty(t, discard.Obstacles())

		require.NoError(t, queue.Of(st).Subscribe(t.Context(), store.Subscription{Topic: "topic", Handler: "gone"}, ""))
		require.NoError(t, queue.Of(st).Register(t.Context(), store.Instance{
			ID: "host/1/abc", DeadAfter: time.Hour, Handlers: store.Serving([]store.Subscription{{Topic: "topic", Handler: "handler"}, {Topic: "other", Handler: "gone"}}),
		}))
		table := "reprise.events"
		if strings.HasPrefix(url, "sqlite:") {
			table = "reprise_events"
		}
		_, err = st.DB().ExecContext(t.Context(), "DELETE FROM "+table+" WHERE id = 'FAILED-0'")
		require.NoError(t, err)
		p, err = replay.Preview(t.Context(), st, selection, replay.Request{})
		require.NoError(t, err)
		require.NoError(t, p.Refusal())
		require.Equal(t, []int{1, 0}, []int{p.Parts[0].Instances, p.Parts[1].Instances})
		require.Equal(t, []string{
			"No live instance serves gone (1): what is replayed waits until one does.",
			"The event is no longer in the database, so that the run will fail again: handler (1).",
		}, p.Obstacles())
	})
}

func TestAPlanSaysWhyARunIsNotSelected(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		failed, succeeded := end(t, st, 1, store.Failed)[0], end(t, st, 1, store.Success)[0]
		leased, err := queue.Of(st).Record(t.Context(), store.Event{ID: "leased", Topic: "topic", Source: "test"}, "handler", "instance", false)
		require.NoError(t, err)
		ids := []int64{failed, succeeded, leased.ID, 4711}
		is := func(id int64, what string) string { return fmt.Sprintf("run %d is %s", id, what) }
		for _, c := range []struct {
			preview   func(selection store.Filter) (replay.Plan, error)
			status    store.Status
			total     int64
			otherwise []string
		}{
			{func(f store.Filter) (replay.Plan, error) {
				return replay.Preview(t.Context(), st, f, replay.Request{})
			}, "", 1, []string{is(succeeded, "SUCCESS"), is(leased.ID, "PENDING"), is(4711, "not there")}},
			{func(f store.Filter) (replay.Plan, error) {
				return replay.Preview(t.Context(), st, f, replay.Request{EvenSuccessful: true})
			}, "", 2, []string{is(leased.ID, "PENDING"), is(4711, "not there")}},
			{func(f store.Filter) (replay.Plan, error) {
				return replay.Preview(t.Context(), st, f, replay.Request{})
			}, store.Discarded, 0, []string{is(failed, "FAILED"), is(succeeded, "SUCCESS"), is(leased.ID, "PENDING"), is(4711, "not there")}},
			{func(f store.Filter) (replay.Plan, error) {
				return replay.PreviewDiscard(t.Context(), st, f, replay.Request{})
			}, store.Pending, 0, []string{is(failed, "FAILED"), is(succeeded, "SUCCESS"), is(leased.ID, "running"), is(4711, "not there")}},
		} {
			p, err := c.preview(store.Filter{IDs: ids, Status: c.status})
			require.NoError(t, err)
			require.Equal(t, store.Count{N: c.total}, p.Total)
			require.Equal(t, c.otherwise, p.NotSelected)
		}
		p, err := replay.Preview(t.Context(), st, store.Filter{IDs: []int64{failed}}, replay.Request{})
		require.NoError(t, err)
		require.Empty(t, p.NotSelected)
	})
}

// Scripts read what a dry run prints, byte for byte.
func TestAPlanIsWrittenAsJSON(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		preview := func() string {
			t.Helper()
			p, err := replay.Preview(t.Context(), st, store.Filter{Handler: "handler"}, replay.Request{})
			require.NoError(t, err)
			text, err := json.Marshal(p)
			require.NoError(t, err)
			return string(text)
		}
		require.Equal(t, `{"total":{"count":0,"more":false},"parts":[],"more_parts":0}`, preview())
		id := failed(t, st, "handler")
		require.Equal(t, fmt.Sprintf(`{"total":{"count":1,"more":false},"parts":[{"handler":"handler","topic":"topic","status":"FAILED","group":"","error_kind":"error","error":"it failed","runs":1,"newest":%d,"event_gone":0,"subscribed":true,"instances":0}],"more_parts":0}`, id), preview())
	})
}

// failed makes a failed run of a handler, and returns its id.
func failed(t *testing.T, st *store.Store, handler string) int64 {
	t.Helper()
	run, err := queue.Of(st).Record(t.Context(), store.Event{ID: "of " + handler, Topic: "topic", Source: "test"}, handler, "instance", false)
	require.NoError(t, err)
	_, err = queue.Of(st).End(t.Context(), []queue.Outcome{{Lease: queue.LeaseOf(run), Status: store.Failed, Failure: &store.Failure{Kind: store.KindError, Message: "it failed"}}})
	require.NoError(t, err)
	return run.ID
}
