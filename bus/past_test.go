package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func TestAHandlerMayBeginWithTheBeginning(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		first := open(t, url)
		require.NoError(t, first.Handle(nothing[placed]("old")))
		require.NoError(t, first.Publish(t.Context(), placed{"1"}, placed{"2"}, paid{"not this"}))

		got := make(chan string, 10)
		ship := func(b *bus.Bus) {
			require.NoError(t, b.Handle(handlers.New("ship", func(_ context.Context, e placed) error {
				got <- e.Order
				return nil
			}, handlers.Policy{From: handlers.Beginning})))
		}
		second := open(t, url)
		ship(second)
		require.NoError(t, second.InTx(t.Context(), func(tx *bus.Tx) error { return second.PublishTx(t.Context(), tx, placed{"3"}) }),
			"the first publish registers it, in a transaction")
		run(t, second)
		require.ElementsMatch(t, []string{"1", "2", "3"}, []string{testkit.Receive(t, got), testkit.Receive(t, got), testkit.Receive(t, got)})

		third := open(t, url)
		ship(third)
		run(t, third)
		require.NoError(t, third.Publish(t.Context(), placed{"4"}))
		require.Equal(t, "4", testkit.Receive(t, got), "it is not new any more")
		operations, err := third.Store().Operations(t.Context(), 0, 0)
		require.NoError(t, err)
		require.Len(t, operations, 1)
		require.Equal(t, store.Backfilling, operations[0].Kind)
		require.Equal(t, "ship", operations[0].RequestedBy)
	})
}

// One that an operator has left half done is finished, too.
func TestABackfillThatWasLeftGoesOn(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		got := make(chan string, 1)
		require.NoError(t, queue.Of(b.Store()).Subscribe(t.Context(), store.Subscription{Topic: "order.placed", Handler: "ship"}, ""))
		_, err := operate.On(b.Store()).RequestBackfill(t.Context(), store.Operation{RequestedBy: "ops", Selection: store.Filter{Handler: "ship"}})
		require.NoError(t, err)

		require.NoError(t, b.Handle(handlers.New("ship", func(_ context.Context, e placed) error {
			got <- e.Order
			return nil
		}, handlers.Policy{From: handlers.Beginning})))
		run(t, b)
		require.Equal(t, "1", testkit.Receive(t, got))
	})
}

func TestWhatIsOlderThanTheRetentionGoesUnlessItFailed(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		require.NoError(t, b.Handle(handlers.New("ship", func(_ context.Context, e placed) error {
			if e.Order == "bad" {
				return handlers.Permanent(errors.New("bad"))
			}
			return nil
		})))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"good"}, placed{"bad"}))
		failed := testkit.WaitForRun(t, b.Store(), store.Filter{Status: store.Failed})
		testkit.WaitForRun(t, b.Store(), store.Filter{Status: store.Success})
		for _, update := range []string{
			`events SET published_at = $1`,
			`handler_runs SET finished_at = $1 WHERE status = 'SUCCESS'`,
			`handler_runs SET finished_at = $1, failed_at = $1 WHERE status = 'FAILED'`,
		} {
			_, err := b.DB().Exec(`UPDATE `+testkit.Table(b.Store(), update), "2020-01-01T00:00:00.000Z")
			require.NoError(t, err)
		}

		tidy, err := bus.Open(t.Context(), url, bus.Config{Retention: 24 * time.Hour, Logger: quiet()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, tidy.Close()) })
		run(t, tidy)
		require.Eventually(t, func() bool {
			runs, err := b.Store().Runs(t.Context(), store.Filter{})
			require.NoError(t, err)
			return len(runs) == 1 && runs[0].ID == failed.ID
		}, patience, 10*time.Millisecond)
		done, err := b.Store().Actions(t.Context(), 0, 0)
		require.NoError(t, err)
		require.Len(t, done, 1, "it is on record")
		require.Equal(t, store.By{Name: "retention", Reason: "older than 24h0m0s"}, done[0].By)
		require.EqualValues(t, 1, done[0].Runs)

		// What is discarded can be undone, unless it was said that it need not be.
		_, err = replay.Discard(t.Context(), b.Store(), store.Filter{Status: store.Failed}, replay.Request{Reason: "old"})
		require.NoError(t, err)
		_, err = b.DB().Exec(`UPDATE `+testkit.Table(b.Store(), `handler_runs SET finished_at = $1, discarded_at = $1 WHERE status = 'DISCARDED'`), "2020-01-01T00:00:00.000Z")
		require.NoError(t, err)
		pruned, err := b.Store().Prune(t.Context(), store.Prune{Before: time.Now().Add(-24 * time.Hour), By: store.By{Name: "maria"}}, nil)
		require.NoError(t, err)
		require.Equal(t, store.Pruned{}, pruned)
		thorough, err := bus.Open(t.Context(), url, bus.Config{Retention: 24 * time.Hour, PruneDiscarded: true, Logger: quiet()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, thorough.Close()) })
		run(t, thorough)
		require.Eventually(t, func() bool {
			runs, err := b.Store().Runs(t.Context(), store.Filter{})
			require.NoError(t, err)
			return len(runs) == 0
		}, patience, 10*time.Millisecond)
	})
}

func TestARetentionWithoutMeaningIsRefused(t *testing.T) {
	_, err := bus.Open(t.Context(), "sqlite::memory:", bus.Config{Retention: -time.Hour})
	require.ErrorContains(t, err, "field Retention -1h0m0s: want a positive duration")
	err = open(t, "sqlite::memory:").Handle(handlers.New("h", func(context.Context, placed) error { return nil }, handlers.Policy{From: "now"}))
	require.ErrorContains(t, err, `field From "now": want handlers.Beginning`)
}
