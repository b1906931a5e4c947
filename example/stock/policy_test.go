package main

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// Each trouble leads to its end, and leaves its attempts on record.
func TestThePolicyDecidesByTheKindOfTrouble(t *testing.T) {
	const e, permanent, skip = store.KindError, store.KindPermanent, store.KindSkipCycle
	want := map[string]struct {
		status                store.Status
		attempt, cycle, tries int // the cycle from 0
		attempts              []store.Kind
		cycles                []int // of the attempts
		told                  int   // times that buyers were told
		tickets               int
	}{
		"LAMP":  {status: store.Success, attempt: 1, cycle: 0, tries: 1},
		"MUG":   {status: store.Success, attempt: 3, cycle: 0, tries: 3, attempts: []store.Kind{e, e}, cycles: []int{0, 0}},
		"DESK":  {status: store.Success, attempt: 2, cycle: 0, tries: 1},
		"CHAIR": {status: store.Success, attempt: 2, cycle: 1, tries: 1, attempts: []store.Kind{skip}, cycles: []int{0}, told: 1},
		"SOFA":  {status: store.Success, attempt: 4, cycle: 1, tries: 1, attempts: []store.Kind{e, e, e}, cycles: []int{0, 0, 0}, told: 1},
		"GHOST": {status: store.Failed, attempt: 1, cycle: 0, tries: 1, attempts: []store.Kind{permanent}, cycles: []int{0}, told: 1, tickets: 1},
		"TENT": {status: store.Failed, attempt: 9, cycle: 2, tries: 3, attempts: []store.Kind{e, e, e, e, e, e, e, e, e},
			cycles: []int{0, 0, 0, 1, 1, 1, 2, 2, 2}, told: 3, tickets: 1},
	}
	testdb.Each(t, func(t *testing.T, url string) {
		inApp(t, url, func(a *app) {
			runs := a.countAndRun(t, articles()...)
			require.Len(t, runs, len(want))
			for sku, w := range want {
				r := runs[sku]
				require.Equal(t, w.status, r.Status, sku)
				require.Equal(t, []int{w.attempt, w.cycle, w.tries}, []int{r.Attempt, r.Cycle, r.Tries}, sku)
				kinds, cycles := a.attempts(t, r)
				require.Equal(t, w.attempts, kinds, sku)
				require.Equal(t, w.cycles, cycles, sku)
				require.Equal(t, w.told, a.countRows(t, `SELECT count(*) FROM notices WHERE sku = $1`, sku), sku)
				require.Equal(t, w.tickets, a.countRows(t, `SELECT count(*) FROM tickets WHERE sku = $1`, sku), sku)
				_, known := a.marketplace.available("porto", sku)
				require.Equal(t, w.status == store.Success, known, sku)
			}
			require.Equal(t, "404: no such article", runs["GHOST"].Error)
			require.Equal(t, permanent, runs["GHOST"].ErrorKind)
			require.Equal(t, e, runs["TENT"].ErrorKind)

			a.marketplace.heal()
			again, err := replay.All(t.Context(), a.bus.Store(), store.Filter{Topic: stockChanged}, replay.Request{})
			require.NoError(t, err)
			require.EqualValues(t, 2, again.Taken)
			runs = a.wait(t, runs)
			for sku, attempt := range map[string]int{"GHOST": 2, "TENT": 10} {
				r := runs[sku]
				require.Equal(t, store.Success, r.Status, sku)
				require.Equal(t, []int{attempt, 0, 1}, []int{r.Attempt, r.Cycle, r.Tries}, "%s begins anew", sku)
				require.Equal(t, again.ID, r.ReplayID)
				kinds, _ := a.attempts(t, r)
				require.Equal(t, want[sku].attempts, kinds, "what %s has failed at stays on record", sku)
			}
		})
	})
}

// OnFailure publishes one event for each cycle that failed, which carries the
// correlation of the count that it is about.
func TestAFailedCycleIsPublishedOnceWithItsCause(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		inApp(t, url, func(a *app) {
			tent := a.countAndRun(t, "TENT")["TENT"]
			told, err := a.bus.Store().Runs(t.Context(), store.Filter{Topic: stockUpdateFailed})
			require.NoError(t, err)
			require.Len(t, told, 3)
			var events []StockUpdateFailed
			for _, r := range told {
				require.Equal(t, tellTheBuyers, r.Handler)
				require.Equal(t, store.Success, r.Status)
				event, err := a.bus.Store().Event(t.Context(), r.Topic, r.EventID)
				require.NoError(t, err)
				require.Equal(t, tent.EventID, event.Metadata[pubsub.CorrelationIDMetadata])
				require.Equal(t, tent.EventID, event.Metadata[pubsub.CausationIDMetadata])
				var e StockUpdateFailed
				require.NoError(t, json.Unmarshal(event.Payload, &e))
				events = append(events, e)
			}
			require.ElementsMatch(t, []StockUpdateFailed{
				{Run: tent.ID, SKU: "TENT", Cycle: 1, Reason: "500: out of disk space"},
				{Run: tent.ID, SKU: "TENT", Cycle: 2, Reason: "500: out of disk space"},
				{Run: tent.ID, SKU: "TENT", Cycle: 3, Reason: "500: out of disk space", Final: true},
			}, events)
		})
	})
}

// A callback that fails is on record, and the run ends as it would have.
func TestATicketThatCannotBeOpenedIsOnRecord(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		inApp(t, url, func(a *app) {
			_, err := a.bus.DB().ExecContext(t.Context(), `DROP TABLE tickets`)
			require.NoError(t, err)
			ghost := a.countAndRun(t, "GHOST")["GHOST"]
			require.Equal(t, store.Failed, ghost.Status)
			require.Equal(t, store.KindPermanent, ghost.ErrorKind)
			attempts, err := a.bus.Store().Attempts(t.Context(), ghost.ID)
			require.NoError(t, err)
			require.Len(t, attempts, 2)
			require.Equal(t, store.KindPermanent, attempts[0].Kind)
			require.Equal(t, store.KindCallback, attempts[1].Kind)
			require.Regexp(t, `^OnExhausted: .*tickets`, attempts[1].Message)
			require.Equal(t, 1, a.countRows(t, `SELECT count(*) FROM notices`), "OnFailure is not concerned")
		})
	})
}

// ---

// inApp calls f with an app that is open and whose handlers run.
func inApp(t *testing.T, url string, f func(a *app)) {
	t.Helper()
	require.NoError(t, withApp(t.Context(), url, t.Output(), func(a *app) error {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.bus.Run(ctx) }()
		defer func() {
			stop()
			require.NoError(t, <-ended)
		}()
		f(a)
		return nil
	}))
}

// countAndRun counts articles and returns how their runs ended, by SKU.
func (a *app) countAndRun(t *testing.T, skus ...string) map[string]store.Run {
	t.Helper()
	for _, sku := range skus {
		require.NoError(t, a.count(t.Context(), sku, "porto", 10))
	}
	runs, err := a.bus.Store().Runs(t.Context(), store.Filter{Topic: stockChanged})
	require.NoError(t, err)
	bySKU := map[string]store.Run{}
	for _, r := range runs {
		bySKU[r.Key] = r
	}
	return a.wait(t, bySKU)
}

func (a *app) wait(t *testing.T, runs map[string]store.Run) map[string]store.Run {
	t.Helper()
	var open []store.Run
	for _, r := range runs {
		open = append(open, r)
	}
	ended, err := a.ends(t.Context(), open)
	require.NoError(t, err)
	bySKU := map[string]store.Run{}
	for _, r := range ended {
		bySKU[r.Key] = r
	}
	return bySKU
}

// attempts returns the kinds and cycles of a run's attempts, oldest first.
func (a *app) attempts(t *testing.T, r store.Run) (kinds []store.Kind, cycles []int) {
	t.Helper()
	attempts, err := a.bus.Store().Attempts(t.Context(), r.ID)
	require.NoError(t, err)
	for _, at := range attempts {
		kinds, cycles = append(kinds, at.Kind), append(cycles, at.Cycle)
	}
	return kinds, cycles
}

func (a *app) countRows(t *testing.T, query string, args ...any) int {
	t.Helper()
	n := 0
	require.NoError(t, a.bus.DB().QueryRowContext(t.Context(), query, args...).Scan(&n))
	return n
}
