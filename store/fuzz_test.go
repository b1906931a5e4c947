package store_test

import (
	"database/sql"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// onSQLite returns a store for a fuzz target: one to a process.
func onSQLite(f *testing.F) (*store.Store, *sql.DB) {
	f.Helper()
	db := testdb.Open(f, testdb.SQLite(f))
	require.NoError(f, migrations.Up(f.Context(), db, ""))
	st, err := store.New(f.Context(), db, "")
	require.NoError(f, err)
	return st, db
}

// insert publishes events in a statement of their own.
func insert(t testing.TB, st *store.Store, events ...store.Event) {
	t.Helper()
	inserted, err := queue.Of(st).Insert(t.Context(), st.DB(), events, queue.LeaseOnInsert{})
	require.NoError(t, err)
	require.Len(t, inserted.IDs, len(events))
}

// FuzzFilter holds that a filter which Validate accepts selects exactly those
// runs that it describes, newest first.
func FuzzFilter(f *testing.F) {
	st, db := onSQLite(f)
	for _, sub := range []store.Subscription{{Topic: "orders", Handler: "mail"}, {Topic: "orders", Handler: "it's"}, {Topic: "users", Handler: "mail"}} {
		require.NoError(f, queue.Of(st).Subscribe(f.Context(), sub, ""))
	}
	const noon = 1782907200 // 2026-07-01T12:00:00Z
	published := map[store.EventID]time.Time{}
	for i, e := range []store.Event{
		{ID: "1", Topic: "orders", Key: "ada"}, {ID: "2", Topic: "orders", Key: "é"}, {ID: "1", Topic: "users", Key: "ada"}, {ID: "%", Topic: "users"},
	} {
		insert(f, st, e)
		at := time.Unix(noon, 0).UTC().Add(time.Duration(i) * time.Millisecond)
		_, err := db.Exec(`UPDATE reprise_handler_runs SET published_at = $1 WHERE event_id = $2 AND topic = $3`, at.Format("2006-01-02T15:04:05.000Z"), e.ID, e.Topic)
		require.NoError(f, err)
		published[e.EventID()] = at
	}
	var ended []queue.Outcome
	for _, o := range []queue.Outcome{
		{Status: store.Failed, Failure: store.NewFailure("mail", store.KindError, "down")},
		{Status: store.Success},
	} {
		e := store.Event{ID: fmt.Sprint(len(ended) + 1), Topic: "orders", Source: "kafka"} // it is there
		run, err := queue.Of(st).Record(f.Context(), e, "mail", "a", false)
		require.NoError(f, err)
		o.Lease = queue.LeaseOf(run)
		ended = append(ended, o)
	}
	lost, err := queue.Of(st).End(f.Context(), ended)
	require.NoError(f, err)
	require.Empty(f, lost)
	all, err := st.Runs(f.Context(), store.Filter{})
	require.NoError(f, err)
	require.Len(f, all, 6)

	add := func(ids []byte, status, handler, topic, event, key string, since, until, before int64, limit int) {
		f.Add(ids, ids != nil, status, handler, topic, event, key, since, until, before, limit)
	}
	const second = int64(time.Second)
	add(nil, "", "", "", "", "", 0, 0, 0, 0)
	add(nil, "FAILED", "mail", "orders", "1", "ada", noon*second, (noon+1)*second, 7, 1)
	add(nil, "SUCCESS", "it's", "", "", "", 0, 0, 0, store.MaxLimit)
	add([]byte{1, 2, 2, 6, 99}, "PENDING", "", "", "", "é", 0, 0, 3, 2)
	add([]byte{}, "DISCARDED", "", "users", "%", "", 0, 0, 0, 0)
	add(nil, "failed", "'; DROP TABLE reprise_events; --", "\x00", "\xff", "$1", 0, 0, 0, 0)
	add(nil, "", "", "", "", "", noon*second+1, 0, 0, 0) // between what two databases can tell apart
	add(nil, "", "", "", "", "", noon*second+1_000_000, noon*second+1_000_001, 0, 0)
	add(nil, "", "", "", "", "", 0, noon*second+2_999_999, 0, 0)
	add(nil, "", "", "", "", "", math.MinInt64, math.MaxInt64, math.MaxInt64, 0)
	add(make([]byte, store.MaxLimit+1), "?", "", "", "", "", 5, 5, -1, -1)
	f.Fuzz(func(t *testing.T, ids []byte, listed bool, status, handler, topic, event, key string, since, until, before int64, limit int) {
		filter := store.Filter{
			Status: store.Status(status), Handler: handler, Topic: topic, EventID: event, Key: key, Before: before, Limit: limit,
		}
		if listed {
			filter.IDs = []int64{}
		}
		for _, id := range ids {
			filter.IDs = append(filter.IDs, int64(id))
		}
		if since != 0 {
			filter.Since = time.Unix(0, since)
		}
		if until != 0 {
			filter.Until = time.Unix(0, until)
		}
		runs, err := st.Runs(t.Context(), filter)
		if filter.Validate() != nil {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)

		want := []store.Run{}
		for _, r := range all {
			at := published[store.EventID{Topic: r.Topic, ID: r.EventID}]
			if (filter.IDs == nil || slices.Contains(filter.IDs, r.ID)) &&
				(status == "" || r.Status == filter.Status) && (handler == "" || r.Handler == handler) && (topic == "" || r.Topic == topic) &&
				(event == "" || r.EventID == event) && (key == "" || r.Key == key) && (before == 0 || r.ID < before) &&
				(since == 0 || !at.Before(filter.Since)) && (until == 0 || at.Before(filter.Until)) {
				want = append(want, r)
			}
		}
		if limit == 0 {
			limit = store.DefaultLimit
		}
		require.Equal(t, want[:min(len(want), limit)], runs)
		if filter.Empty() && before == 0 {
			require.Equal(t, all[:min(len(all), limit)], runs)
		}
	})
}

// FuzzCondition holds that a condition which ParseCondition reads is written as
// it was read, and can be looked for.
func FuzzCondition(f *testing.F) {
	st, _ := onSQLite(f)
	for _, text := range []string{"user.id=42", "a!=b", "=", "a", "a.=1", "0.1.x=\"", "é=\x00", `a"b=1`, "a==!=", "!=", "a!.b=1", "$.a=%s", "-1=1", "a\\=1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := store.ParseCondition(text)
		if err == nil {
			require.Equal(t, text, c.String())
			require.NoError(t, c.Validate())
		}
		_, failed := st.Runs(t.Context(), store.Filter{Payload: []store.Condition{c}})
		require.Equal(t, c.Validate() == nil, failed == nil, "%v", failed)
	})
}

// FuzzEvent holds that an event which Validate accepts comes back as it was
// published.
func FuzzEvent(f *testing.F) {
	st, _ := onSQLite(f)
	for _, text := range []string{"", "key", "\x00", `"`, `\u0000`, "<&>\u2028", "é\U0010ffff", "\xff", "\ufffd", "{}", "\x7f", "'; --"} {
		f.Add([]byte(text), text, "key", "value", text)
		f.Add([]byte(`{"a": 1, "a":"`+text+`"}`), "", text, text, "other")
	}
	var events atomic.Int64
	f.Fuzz(func(t *testing.T, payload []byte, key, k, v, other string) {
		e := store.Event{
			ID: fmt.Sprint(events.Add(1)), Topic: "orders", Key: key, Payload: payload,
			Metadata: map[string]string{k: v, other: k},
		}
		if err := e.Validate(); err != nil {
			_, err := queue.Of(st).Insert(t.Context(), st.DB(), []store.Event{e}, queue.LeaseOnInsert{})
			require.Error(t, err, "what cannot be kept as it is is refused")
			return
		}
		require.True(t, utf8.ValidString(key))
		for name, value := range e.Metadata {
			require.True(t, utf8.ValidString(name) && utf8.ValidString(value))
		}
		insert(t, st, e)
		stored, err := st.Event(t.Context(), e.Topic, e.ID)
		require.NoError(t, err)
		require.Equal(t, string(payload), string(stored.Payload))
		require.Equal(t, e.Metadata, stored.Metadata)
		require.Equal(t, key, stored.Key)
		require.Equal(t, store.SourcePublish, stored.Source)
	})
}
