package pubsub_test

import (
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// Transactions that are open elsewhere hold back no event: neither one that
// writes, in this database or in another of the server, nor the snapshot of a
// dump.
func TestOpenTransactionsDelayNothing(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t)
	st := testkit.OpenStore(t, url)
	ps := configured(t, st, pubsub.Config{Concurrency: 4})
	messages := subscribe(t, ps, "topic", "handler")

	for _, open := range []struct {
		url       string
		options   sql.TxOptions
		statement string
	}{
		{testdb.Postgres(t), sql.TxOptions{}, `SELECT txid_current()`},
		{url, sql.TxOptions{}, `CREATE TABLE written (id int)`},
		{url, sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, `SELECT count(*) FROM reprise.events, reprise.handler_runs`},
	} {
		tx, err := testdb.Open(t, open.url).BeginTx(t.Context(), &open.options)
		require.NoError(t, err)
		t.Cleanup(func() { _ = tx.Rollback() })
		_, err = tx.Exec(open.statement)
		require.NoError(t, err)
	}
	const n = 500
	go func() {
		for i := range n {
			publisher := ps.Publisher()
			if i%5 > 0 {
				if err := publisher.Publish("topic", newMessage("x")); err != nil {
					t.Error(err)
				}
				continue
			}
			if err := ps.InTx(t.Context(), func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish("topic", newMessage("x")) }); err != nil {
				t.Error(err)
			}
		}
	}()
	for range n {
		testkit.Receive(t, messages).Ack()
	}
	testkit.WaitForStatus(t, st, "handler", store.Success, n)
}
