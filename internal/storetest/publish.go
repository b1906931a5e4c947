package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

func publishing(promise promise) {
	promise("the event is kept as it was published", func(t *testing.T, db db) {
		e := event("1")
		e.Metadata = map[string]string{"correlation_id": "c"}
		db.publish(e)
		stored, err := db.Event(ctx, topic, "1")
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), stored.PublishedAt, time.Minute)
		require.Equal(t, time.UTC, stored.PublishedAt.Location())
		e.Source, e.PublishedAt = store.SourcePublish, stored.PublishedAt
		require.Equal(t, e, stored)
	})

	promise("each subscription of the topic gets a due run, no other does", func(t *testing.T, db db) {
		db.subscribe("mail", "stock")
		require.NoError(t, db.Subscribe(ctx, store.Subscription{Topic: "payments", Handler: "ledger"}, ""))
		db.publish(event("1"))

		runs := db.runs(store.Filter{})
		require.Len(t, runs, 2)
		require.ElementsMatch(t, []string{"mail", "stock"}, []string{runs[0].Handler, runs[1].Handler})
		for _, r := range runs {
			require.NotZero(t, r.ID)
			require.Equal(t, store.Run{
				ID: r.ID, EventID: "1", Topic: topic, Handler: r.Handler, Status: store.Pending, Key: "key of 1", DueAt: r.DueAt,
				PublishedAt: db.event("1").PublishedAt,
			}, r)
			require.WithinDuration(t, time.Now(), r.DueAt, time.Minute)
		}
	})

	promise("an event that nobody subscribes to is kept", func(t *testing.T, db db) {
		db.publish(event("1"))
		_, err := db.Event(ctx, topic, "1")
		require.NoError(t, err)
		require.Empty(t, db.runs(store.Filter{}))
	})

	promise("thousands of events are one statement", func(t *testing.T, db db) {
		db.subscribe("mail")
		all := make([]store.Event, 2000)
		for i := range all {
			all[i] = event(fmt.Sprint(i))
		}
		db.publish(all...)
		require.Equal(t, []string{"2000"}, db.column(`SELECT count(DISTINCT event_id) FROM reprise.handler_runs`))
	})

	promise("in a transaction, it exists when that commits", func(t *testing.T, db db) {
		db.subscribe("mail")
		tx, err := db.DB().BeginTxx(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"1"}, db.insert(tx, event("1")))
		require.NoError(t, tx.Commit())
		require.Equal(t, "1", db.only(store.Filter{}).EventID)
	})

	promise("a rolled back transaction leaves nothing", func(t *testing.T, db db) {
		db.subscribe("mail")
		tx, err := db.DB().BeginTxx(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"1"}, db.insert(tx, event("1")))
		require.NoError(t, tx.Rollback())
		require.Empty(t, db.runs(store.Filter{}))
		_, err = db.Event(ctx, topic, "1")
		require.ErrorIs(t, err, store.ErrNotFound)
		db.publish(event("1"))
	})

	promise("publishing again does nothing, whatever became of the run", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(event("1"))
		lease := db.claimOne("a", "mail")
		db.subscribe("stock")
		again := func() {
			t.Helper()
			before := db.runs(store.Filter{})
			inserted := db.insert(db.DB(), events("1", "1")...)
			require.Empty(t, inserted)
			require.Equal(t, before, db.runs(store.Filter{}))
		}
		again()
		db.end(queue.Outcome{Lease: lease, Status: store.Success})
		again()
	})

	promise("what is not new in a batch holds nothing else up", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.publish(event("1"))
		batch := events("1", "2", "2", "3")
		inserted := db.insert(db.DB(), batch...)
		require.ElementsMatch(t, []string{"2", "3"}, inserted)
		require.Len(t, db.runs(store.Filter{}), 3)
	})

	promise("of two events under one id in a batch, the second repeats the first", func(t *testing.T, db db) {
		db.subscribe("mail")
		batch := events("1", "1", "1", "1")
		batch[1].Metadata = map[string]string{"retries": "1"}
		batch[2].Metadata = map[string]string{"retries": "1", store.CausationIDMetadata: "another"}
		batch[3].Metadata, batch[3].Declared = map[string]string{"retries": "1"}, true
		require.Len(t, db.insert(db.DB(), batch...), 2)
		known, err := db.KnownMetadata(ctx, db.DB(), []store.EventID{{Topic: topic, ID: "1"}, {Topic: topic, ID: batch[1].Repeat().ID}, {Topic: topic, ID: "2"}})
		require.NoError(t, err)
		require.Equal(t, map[store.EventID]map[string]string{
			{Topic: topic, ID: "1"}:                  {},
			{Topic: topic, ID: batch[1].Repeat().ID}: {"retries": "1", store.RepeatsMetadata: "1"},
		}, known)
	})

	promise("publishers of the same event at once make one", func(t *testing.T, db db) {
		db.subscribe("mail")
		var inserted atomic.Int64
		atOnce(t, 8, func(int) error {
			ids, err := db.tryInsert(ctx, db.DB(), event("1"))
			inserted.Add(int64(len(ids)))
			return err
		})
		require.EqualValues(t, 1, inserted.Load())
		db.only(store.Filter{})
	})

	promise("another payload under a taken id is ErrDuplicateID", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.publish(event("1"))
		other := event("1")
		other.Payload = []byte(`{"order":"1"}`) // spacing counts

		_, err := db.tryInsert(ctx, db.DB(), event("2"), other, event("3"))
		require.ErrorIs(t, err, store.ErrDuplicateID)
		require.NotContains(t, err.Error(), "order", "an error quotes no payload")
		require.Equal(t, []string{"1"}, db.column(`SELECT id FROM reprise.events`), "all of them or none")

		other.Payload = []byte{0xff} // nor is JSON the same as bytes
		_, err = db.tryInsert(ctx, db.DB(), other)
		require.ErrorIs(t, err, store.ErrDuplicateID)

		stored, err := db.Event(ctx, topic, "1")
		require.NoError(t, err)
		require.Equal(t, event("1").Payload, stored.Payload)
		db.only(store.Filter{})
	})

	promise("two payloads under one id in a batch are ErrDuplicateID", func(t *testing.T, db db) {
		first, second := event("1"), event("1")
		second.Payload = []byte("other")
		_, err := db.tryInsert(ctx, db.DB(), first, second)
		require.ErrorIs(t, err, store.ErrDuplicateID)
		require.Empty(t, db.column(`SELECT id FROM reprise.events`))
	})

	promise("the same id on another topic is another event", func(t *testing.T, db db) {
		db.subscribe("mail")
		require.NoError(t, db.Subscribe(ctx, store.Subscription{Topic: "archive", Handler: "mail"}, ""))
		passedOn := event("1")
		passedOn.Topic, passedOn.Payload = "archive", []byte("archived")
		db.publish(event("1"))
		db.publish(passedOn)

		for _, want := range []store.Event{event("1"), passedOn} {
			stored, err := db.Event(ctx, want.Topic, "1")
			require.NoError(t, err)
			require.Equal(t, want.Payload, stored.Payload)
			require.Equal(t, "1", db.only(store.Filter{Topic: want.Topic}).EventID)
		}
	})

	promise("what the database would not keep as it is is refused", func(t *testing.T, db db) {
		for want, spoil := range map[string]func(e *store.Event){
			"id is empty":                             func(e *store.Event) { e.ID = "" },
			"topic is empty":                          func(e *store.Event) { e.Topic = "" },
			"has 256 bytes: want at most 255":         func(e *store.Event) { e.Key = strings.Repeat("k", 256) },
			`topic "a\x00b": want valid UTF-8`:        func(e *store.Event) { e.Topic = "a\x00b" },
			`id "a\nb": want valid UTF-8`:             func(e *store.Event) { e.ID = "a\nb" },
			`key "\xff": want valid UTF-8`:            func(e *store.Event) { e.Key = "\xff" },
			`metadata "trace": want valid UTF-8`:      func(e *store.Event) { e.Metadata = map[string]string{"trace": "\xff"} },
			`metadata "\xff": want valid UTF-8`:       func(e *store.Event) { e.Metadata = map[string]string{"\xff": ""} },
			"binary data belongs in the payload":      func(e *store.Event) { e.Metadata = map[string]string{"trace": "\xc0\x80"} },
			"topic is empty\nkey \"\\a\": want valid": func(e *store.Event) { e.Topic, e.Key = "", "\a" },
		} {
			e := event("1")
			spoil(&e)
			_, err := db.Insert(ctx, db.DB(), []store.Event{event("2"), e}, queue.LeaseOnInsert{})
			require.ErrorContains(t, err, want)
			_, err = db.record(e, "mail", "a", false)
			require.ErrorContains(t, err, want)
		}
		longest := event(strings.Repeat("i", 255))
		longest.Key, longest.Metadata = "", map[string]string{"": "\x00"}
		db.publish(longest)
	})
}

func subscribing(promise promise) {
	promise("a subscription counts from the next event on", func(t *testing.T, db db) {
		db.publish(event("1"))
		db.subscribe("mail")
		db.publish(event("2"))
		require.Equal(t, "2", db.only(store.Filter{}).EventID)
	})

	promise("subscribing again changes nothing but last_seen_at", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.exec(`UPDATE reprise.subscriptions SET since = $1, last_seen_at = $1`, ago(time.Hour))
		since := db.column(`SELECT since FROM reprise.subscriptions`)
		db.subscribe("mail")
		require.Equal(t, since, db.column(`SELECT since FROM reprise.subscriptions`))
		require.Len(t, db.column(`SELECT handler FROM reprise.subscriptions WHERE last_seen_at > since`), 1)
	})

	promise("a subscription that is removed gets nothing more, and keeps its runs", func(t *testing.T, db db) {
		db.subscribe("mail", "audit")
		db.publish(event("1"))
		mail := store.Subscription{Topic: topic, Handler: "mail"}
		require.NoError(t, db.Unsubscribe(ctx, mail, maria))
		db.publish(event("2"))
		require.Equal(t, "1", db.runs(store.Filter{Handler: "mail"})[0].EventID)
		require.Len(t, db.runs(store.Filter{Handler: "mail"}), 1)
		require.Len(t, db.runs(store.Filter{Handler: "audit"}), 2)
		require.ErrorIs(t, db.Unsubscribe(ctx, mail, maria), store.ErrNotFound)
	})

	promise("processes that subscribe at once do not collide", func(t *testing.T, db db) {
		atOnce(t, 8, func(int) error {
			for _, handler := range []string{"mail", "stock"} {
				if err := db.Subscribe(ctx, store.Subscription{Topic: topic, Handler: handler}, ""); err != nil {
					return err
				}
			}
			return nil
		})
		require.Len(t, db.column(`SELECT handler FROM reprise.subscriptions`), 2)
	})

	promise("in a transaction that is rolled back, it never was", func(t *testing.T, db db) {
		tx, err := db.DB().BeginTxx(ctx, nil)
		require.NoError(t, err)
		fresh, err := db.SubscribeTx(ctx, tx, store.Subscription{Topic: topic, Handler: "mail"}, "")
		require.NoError(t, err)
		require.True(t, fresh)
		require.NoError(t, tx.Rollback())
		require.Empty(t, db.column(`SELECT handler FROM reprise.subscriptions`))
		db.subscribe("mail")
		fresh, err = db.SubscribeTx(ctx, db.DB(), store.Subscription{Topic: topic, Handler: "mail"}, "")
		require.NoError(t, err)
		require.False(t, fresh)
	})

	promise("runs are created in an instance's hands where it has free slots for them", func(t *testing.T, db db) {
		db.subscribe("mail", "stock")
		db.register("a")
		lease := queue.LeaseOnInsert{Instance: "a", Wants: []queue.Want{{Topic: topic, Handler: "mail", N: 2}}}
		inserted, err := db.insertLeasing(ctx, db.DB(), lease, events("1", "2", "3")...)
		require.NoError(t, err)
		require.Len(t, inserted.IDs, 3)
		if !db.LeasesOnInsert() {
			require.Empty(t, inserted.Leased)
			require.Positive(t, inserted.Due)
			require.Len(t, db.claim("a", "mail", 10), 3)
			return
		}
		require.Len(t, inserted.Leased, 2)
		require.Equal(t, 4, inserted.Due)
		for _, l := range inserted.Leased {
			require.Equal(t, "mail", l.Handler)
			run, err := db.Run(ctx, l.RunID)
			require.NoError(t, err)
			require.Equal(t, []string{"1", "2", "3"}[l.Event], run.EventID)
			require.Equal(t, store.Pending, run.Status)
			require.Equal(t, "a", run.Instance)
			require.Equal(t, 1, run.Attempt)
			require.False(t, run.StartedAt.IsZero())
			db.end(queue.Outcome{Lease: queue.LeaseOf(run), Status: store.Success})
		}
		require.Len(t, db.claim("a", "mail", 10), 1)
		require.Len(t, db.claim("a", "stock", 10), 3)
	})

	promise("events of all kinds share a statement, whether they are known to be new or not", func(t *testing.T, db db) {
		db.subscribe("mail", "stock")
		require.NoError(t, db.Subscribe(ctx, store.Subscription{Topic: "payments", Handler: "ledger"}, ""))
		db.register("a")
		type insertion func(ctx context.Context, q sqldb.Queryer, events []store.Event, lease queue.LeaseOnInsert) (queue.Inserted, error)
		for name, insert := range map[string]insertion{"any": db.Insert, "new": db.InsertNew} {
			awkward := `{a,"b\c"} NULL\` + "\n\u00e9"
			all := []store.Event{
				{ID: "1", Topic: "payments", Payload: []byte(`{"said": "\"yes\" \\ no"}`)},
				{ID: "2", Topic: topic, Key: `{"k",\}`, Payload: []byte{0, 0xff, '\\', '"', ','}, Metadata: map[string]string{awkward: awkward, "plain": "yes"}},
				{ID: "3", Topic: "payments", Key: "NULL", Payload: []byte(`null`), Metadata: map[string]string{"a": "b", "c": "d e"}},
				{ID: "4", Topic: "nobody's", Payload: []byte{}},
				{ID: "5", Topic: topic, Payload: []byte(` [1, 2] `)},
				{ID: "6", Topic: topic, Payload: []byte(`not JSON`)},
				{ID: "7", Topic: "payments", Key: " ", Payload: []byte(`""`), Metadata: map[string]string{"": ""}},
			}
			for i := range all {
				all[i].ID = name + all[i].ID
			}
			lease := queue.LeaseOnInsert{Instance: "a", Wants: []queue.Want{
				{Topic: topic, Handler: "stock", N: 2}, {Topic: "payments", Handler: "ledger", N: 9}, {Topic: topic, Handler: "gone", N: 1},
			}}
			inserted, err := insert(ctx, db.DB(), all, lease)
			require.NoError(t, err)
			require.Len(t, inserted.IDs, len(all))
			for _, e := range all {
				stored, err := db.Event(ctx, e.Topic, e.ID)
				require.NoError(t, err)
				e.Source, e.PublishedAt = store.SourcePublish, stored.PublishedAt
				if e.Metadata == nil {
					e.Metadata = map[string]string{}
				}
				require.Equal(t, e, stored)
				for _, r := range db.runs(store.Filter{EventID: e.ID}) {
					require.Equal(t, e.Key, r.Key)
				}
			}
			if !db.LeasesOnInsert() {
				continue
			}
			require.Equal(t, 4, inserted.Due, "three of mail, and the third of stock")
			var leased []string
			for _, l := range inserted.Leased {
				run, err := db.Run(ctx, l.RunID)
				require.NoError(t, err)
				require.Equal(t, all[l.Event].EventID(), store.EventID{Topic: run.Topic, ID: run.EventID})
				require.Equal(t, l.Handler, run.Handler)
				require.Equal(t, "a", run.Instance)
				leased = append(leased, strings.TrimPrefix(run.EventID, name)+" "+run.Handler)
			}
			require.ElementsMatch(t, []string{"1 ledger", "2 stock", "3 ledger", "5 stock", "7 ledger"}, leased)
		}
	})

	promise("what is not new after all is refused by the statement that expects it", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.publish(event("1"))
		if !db.LeasesOnInsert() { // SQLite's looks in any case
			inserted, err := db.InsertNew(ctx, db.DB(), events("1", "2"), queue.LeaseOnInsert{})
			require.NoError(t, err)
			require.Len(t, inserted.IDs, 1)
			return
		}
		for _, batch := range [][]store.Event{events("1"), events("1", "2"), events("2", "2")} {
			_, err := db.InsertNew(ctx, db.DB(), batch, queue.LeaseOnInsert{})
			require.ErrorIs(t, err, queue.ErrKnown)
			require.True(t, sqldb.Refused(err))
			require.True(t, sqldb.Unacceptable(err))
		}
		require.Equal(t, "1", db.only(store.Filter{}).EventID, "nothing of it was written")
		inserted, err := db.InsertNew(ctx, db.DB(), events("2"), queue.LeaseOnInsert{})
		require.NoError(t, err)
		require.Len(t, inserted.IDs, 1)
		require.Equal(t, 1, inserted.Due)
	})

	promise("an instance that was found dead gets no run in its hands", func(t *testing.T, db db) {
		db.subscribe("mail")
		lease := queue.LeaseOnInsert{Instance: "gone", Wants: []queue.Want{{Topic: topic, Handler: "mail", N: 2}}}
		inserted, err := db.insertLeasing(ctx, db.DB(), lease, event("1"))
		require.NoError(t, err)
		require.Empty(t, inserted.Leased)
		require.Equal(t, 1, inserted.Due)
	})

	promise("what is not new is not leased again", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(event("1"))
		lease := queue.LeaseOnInsert{Instance: "a", Wants: []queue.Want{{Topic: topic, Handler: "mail", N: 2}}}
		inserted, err := db.insertLeasing(ctx, db.DB(), lease, events("1", "1")...)
		require.NoError(t, err)
		require.Empty(t, inserted.IDs)
		require.Empty(t, inserted.Leased)
	})

	promise("names that nobody could type are refused", func(t *testing.T, db db) {
		for want, sub := range map[string]store.Subscription{
			"handler is empty":                    {Topic: topic},
			`handler "mail": topic is empty`:      {Handler: "mail"},
			`handler "a\tb": want valid UTF-8`:    {Topic: topic, Handler: "a\tb"},
			"has 300 bytes: want at most 255":     {Topic: topic, Handler: strings.Repeat("h", 300)},
			`topic "\xff": want valid UTF-8 with`: {Topic: "\xff", Handler: "mail"},
		} {
			require.ErrorContains(t, db.Subscribe(ctx, sub, ""), want)
		}
		require.Empty(t, db.column(`SELECT handler FROM reprise.subscriptions`))
	})
}
