package storetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/store"
)

func receiving(promise promise) {
	delivered := func(ids ...string) []store.Event {
		all := events(ids...)
		for i := range all {
			all[i].Source = "kafka"
		}
		return all
	}
	receive := func(db db, handler string, events []store.Event) int64 {
		db.t.Helper()
		fresh, err := db.Receive(ctx, handler, events)
		require.NoError(db.t, err)
		return fresh
	}

	promise("what is delivered becomes a due run of the one handler", func(t *testing.T, db db) {
		db.subscribe("mail", "audit")
		require.EqualValues(t, 2, receive(db, "mail", delivered("1", "2")))
		runs := db.runs(store.Filter{})
		require.Len(t, runs, 2)
		for _, r := range runs {
			require.Equal(t, "mail", r.Handler)
			require.Equal(t, db.event(r.EventID).PublishedAt, r.PublishedAt)
			require.Equal(t, "key of "+r.EventID, r.Key)
		}
		require.Equal(t, "kafka", db.event("1").Source)
		require.Equal(t, event("1").Payload, db.event("1").Payload)
		db.register("a")
		require.Len(t, db.claim("a", "mail", 5), 2)
	})

	promise("what is delivered again changes nothing, to another handler it is new", func(t *testing.T, db db) {
		receive(db, "mail", delivered("1"))
		db.register("a")
		db.end(store.Outcome{Lease: db.claimOne("a", "mail"), Status: store.Success})
		before := db.runs(store.Filter{})
		require.Zero(t, receive(db, "mail", delivered("1")))
		require.Equal(t, before, db.runs(store.Filter{}))
		require.EqualValues(t, 1, receive(db, "mail", delivered("1", "2")))
		require.EqualValues(t, 2, receive(db, "audit", delivered("1", "2")))
		require.Equal(t, []string{"1", "2"}, db.column(`SELECT id FROM reprise.events ORDER BY id`))
	})

	promise("another payload under a known id is refused, and with it everything", func(t *testing.T, db db) {
		receive(db, "mail", delivered("1"))
		other := delivered("2", "1")
		other[1].Payload = []byte("another")
		_, err := db.Receive(ctx, "mail", other)
		require.ErrorIs(t, err, store.ErrDuplicateID)
		other[1].Payload = []byte(`"another"`)
		_, err = db.Receive(ctx, "mail", other)
		require.ErrorIs(t, err, store.ErrDuplicateID)
		require.Len(t, db.runs(store.Filter{}), 1)
		for want, bad := range map[string]store.Event{
			`source "publish"`: {ID: "3", Topic: topic, Source: store.SourcePublish},
			"topic is empty":   {ID: "3", Source: "kafka"},
		} {
			_, err := db.Receive(ctx, "mail", []store.Event{bad})
			require.ErrorContains(t, err, want)
		}
	})
}
