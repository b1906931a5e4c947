package storetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
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
		received, err := db.Receive(ctx, handler, events, queue.LeaseOnInsert{})
		require.NoError(db.t, err)
		require.Empty(db.t, received.Leased)
		return int64(received.Due)
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
		db.end(queue.Outcome{Lease: db.claimOne("a", "mail"), Status: store.Success})
		before := db.runs(store.Filter{})
		require.Zero(t, receive(db, "mail", delivered("1")))
		require.Equal(t, before, db.runs(store.Filter{}))
		require.EqualValues(t, 1, receive(db, "mail", delivered("1", "2")))
		require.EqualValues(t, 2, receive(db, "audit", delivered("1", "2")))
		require.Equal(t, []string{"1", "2"}, db.column(`SELECT id FROM reprise.events ORDER BY id`))
	})

	promise("what is delivered under a known id with other metadata gets no run, the caller is told", func(t *testing.T, db db) {
		first := delivered("1")
		first[0].Metadata = map[string]string{"a": "1", "b": "2", "c": "3"}
		receive(db, "mail", first)
		again := delivered("1", "2")
		again[0].Metadata = map[string]string{"a": "1", "b": "2", "c": "3"}
		require.EqualValues(t, 2, receive(db, "audit", again), "the same metadata")
		again[0].Metadata["retries"] = "1"
		received, err := db.Receive(ctx, "ledger", again, queue.LeaseOnInsert{})
		require.NoError(t, err)
		require.Equal(t, []queue.OtherMetadata{{Event: 0, Metadata: first[0].Metadata}}, received.Other)
		require.Equal(t, 1, received.Due)
		require.Equal(t, 2, received.Known)
		again[0].Declared = true
		received, err = db.Receive(ctx, "ledger", again, queue.LeaseOnInsert{})
		require.NoError(t, err)
		require.Empty(t, received.Other)
		require.Equal(t, 1, received.Due)
		require.Equal(t, first[0].Metadata, db.event("1").Metadata)
	})

	promise("another payload under a known id is refused, and with it everything", func(t *testing.T, db db) {
		receive(db, "mail", delivered("1"))
		other := delivered("2", "1")
		other[1].Payload = []byte("another")
		_, err := db.Receive(ctx, "mail", other, queue.LeaseOnInsert{})
		require.ErrorIs(t, err, store.ErrDuplicateID)
		other[1].Payload = []byte(`"another"`)
		_, err = db.Receive(ctx, "mail", other, queue.LeaseOnInsert{})
		require.ErrorIs(t, err, store.ErrDuplicateID)
		require.Len(t, db.runs(store.Filter{}), 1)
		for want, bad := range map[string]store.Event{
			`source "publish"`: {ID: "3", Topic: topic, Source: store.SourcePublish},
			"topic is empty":   {ID: "3", Source: "kafka"},
		} {
			_, err := db.Receive(ctx, "mail", []store.Event{bad}, queue.LeaseOnInsert{})
			require.ErrorContains(t, err, want)
		}
	})

	promise("as many runs as are asked for are leased, and all are in order", func(t *testing.T, db db) {
		if !db.LeasesOnInsert() {
			return
		}
		db.register("a")
		lease := func(instance string, n int) queue.LeaseOnInsert {
			return queue.LeaseOnInsert{Instance: instance, Wants: []queue.Want{want(topic, "mail", n)}}
		}
		receive(db, "mail", delivered("known"))
		receive(db, "audit", delivered("2"))
		received, err := db.Receive(ctx, "mail", delivered("known", "1", "2", "3"), lease("a", 3))
		require.NoError(t, err)
		require.Equal(t, 1, received.Due)
		require.Len(t, received.Leased, 2, "of the first three, one has a run")
		for i, l := range received.Leased {
			require.Equal(t, i+1, l.Event)
			run, err := db.Run(ctx, l.RunID)
			require.NoError(t, err)
			require.Equal(t, "a", run.Instance)
			require.Equal(t, 1, run.Attempt)
			require.Equal(t, db.event(run.EventID).PublishedAt, run.PublishedAt)
			lost, err := db.End(ctx, []queue.Outcome{{Lease: queue.LeaseOf(run), Status: store.Success}})
			require.NoError(t, err)
			require.Empty(t, lost)
		}
		var order []string
		for _, r := range db.runs(store.Filter{Handler: "mail"}) {
			order = append([]string{r.EventID}, order...)
		}
		require.Equal(t, []string{"known", "1", "2", "3"}, order)
		again, err := db.Receive(ctx, "mail", delivered("known", "1", "2", "3"), lease("a", 4))
		require.NoError(t, err)
		require.Equal(t, queue.Received{Known: 4}, again)
		_, err = db.ReceiveNew(ctx, "mail", delivered("new", "1"), lease("a", 4))
		require.ErrorIs(t, err, queue.ErrKnown)
		require.True(t, sqldb.Refused(err))
		fresh, err := db.ReceiveNew(ctx, "mail", delivered("new", "newer"), lease("a", 1))
		require.NoError(t, err)
		require.Len(t, fresh.Leased, 1)
		require.Equal(t, 0, fresh.Leased[0].Event)
		require.Equal(t, 1, fresh.Due)
		gone, err := db.Receive(ctx, "mail", delivered("4"), lease("nobody", 1))
		require.NoError(t, err)
		require.Equal(t, queue.Received{Due: 1}, gone, "an instance that is not known gets none")
	})

	promise("a run whose event is gone stays what it is when the event comes again", func(t *testing.T, db db) {
		require.EqualValues(t, 1, receive(db, "mail", delivered("1")))
		db.exec(`DELETE FROM reprise.events`)
		if db.LeasesOnInsert() {
			_, err := db.ReceiveNew(ctx, "mail", delivered("1"), queue.LeaseOnInsert{})
			require.ErrorIs(t, err, queue.ErrKnown)
		}
		require.Zero(t, receive(db, "mail", delivered("1")))
		require.Len(t, db.runs(store.Filter{}), 1)
		require.Equal(t, event("1").Payload, db.event("1").Payload)
	})
}
