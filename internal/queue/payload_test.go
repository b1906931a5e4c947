package queue_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// FuzzPayload publishes into SQLite, which has its own opinion of what is JSON.
// What PostgreSQL takes is a promise of internal/storetest.
func FuzzPayload(f *testing.F) {
	for _, payload := range []string{`{}`, ` [ 1 ,2 ] `, `{"a":1, "a":2}`, `1e400`, `"\u0000"`, `"\ud800"`, "\"\x7f\"", ``, `{}{}`, `NaN`, "\x00", "{}\x00", "\xff", "\ufeff{}", strings.Repeat(`[`, 600) + strings.Repeat(`]`, 600)} {
		f.Add([]byte(payload))
	}
	db := testdb.Open(f, testdb.SQLite(f))
	require.NoError(f, migrations.Up(f.Context(), db, ""))
	st, err := store.New(f.Context(), db, "")
	require.NoError(f, err)
	var published atomic.Int64
	f.Fuzz(func(t *testing.T, payload []byte) {
		e := store.Event{ID: fmt.Sprint(published.Add(1)), Topic: "orders", Payload: payload}
		_, err := queue.Of(st).Insert(t.Context(), st.DB(), []store.Event{e}, queue.LeaseOnInsert{})
		require.NoError(t, err)
		stored, err := st.Event(t.Context(), e.Topic, e.ID)
		require.NoError(t, err)
		require.Equal(t, string(payload), string(stored.Payload))

		var text, valid bool
		require.NoError(t, db.QueryRowContext(t.Context(), `
			SELECT payload IS NOT NULL, coalesce(json_valid(payload), false) FROM reprise_events WHERE id = $1`, e.ID).Scan(&text, &valid))
		require.Equal(t, sqldb.IsJSON(payload), text)
		require.Equal(t, text, valid, "what is stored as text is JSON")
	})
}
