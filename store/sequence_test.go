package store_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// A sequence that is behind its table, as after a restore, makes new rows collide
// with old ones: that is no event that is known, and the error says what it is.
func TestASequenceThatIsBehindIsNamed(t *testing.T) {
	t.Parallel()
	for _, d := range testdb.Drivers() {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			db := d.Open(t, testdb.Postgres(t))
			st := migrated(t, db, "")
			require.NoError(t, queue.Of(st).Subscribe(ctx, store.Subscription{Topic: "orders", Handler: "mail"}, ""))
			require.NoError(t, queue.Of(st).Register(ctx, store.Instance{ID: "a", Host: "host"}))
			event := func(id string) store.Event {
				return store.Event{ID: id, Topic: "orders", Payload: []byte(`{}`), Source: "kafka"}
			}
			insert := func(ids ...string) error {
				var events []store.Event
				for _, id := range ids {
					events = append(events, event(id))
				}
				_, err := queue.Of(st).Insert(ctx, st.DB(), events, queue.LeaseOnInsert{})
				return err
			}
			claims := int64(0)
			rows := func(n int) (ids []string) {
				for i := range n {
					ids = append(ids, fmt.Sprint("old", i))
				}
				return ids
			}
			require.NoError(t, insert(rows(200)...))
			_, err := queue.Of(st).WriteOutbox(ctx, st.DB(), []store.Event{event("1")}, func(string) bool { return false })
			require.NoError(t, err)
			operation := store.Operation{Kind: store.Replaying, RequestedBy: "ada", Selection: store.Filter{Handler: "mail"}}
			_, err = operate.On(st).Request(ctx, operation)
			require.NoError(t, err)
			fail := func() error {
				claimed, err := queue.Of(st).Claim(ctx, queue.Claimant{Instance: "a", Claims: claims}, []queue.Want{{Topic: "orders", Handler: "mail", N: 1}})
				require.NoError(t, err)
				require.Len(t, claimed, 1)
				claims++
				_, err = queue.Of(st).End(ctx, []queue.Outcome{{
					Lease: queue.LeaseOf(claimed[0].Run), Status: store.Failed, Failure: &store.Failure{Kind: store.KindError, Message: "no"},
				}})
				return err
			}
			require.NoError(t, fail())

			// InsertNew says that something is known, which Insert then looks for.
			for _, table := range []string{"handler_runs", "run_attempts", "operations", "outbox", "actions"} {
				exec(t, db, `ALTER TABLE reprise.`+table+` ALTER COLUMN id RESTART WITH 1`)
			}
			_, err = queue.Of(st).InsertNew(ctx, st.DB(), []store.Event{event("new")}, queue.LeaseOnInsert{})
			require.ErrorIs(t, err, queue.ErrKnown)
			_, err = queue.Of(st).ReceiveNew(ctx, "mail", []store.Event{event("new")}, queue.LeaseOnInsert{})
			require.ErrorIs(t, err, queue.ErrKnown)

			_, received := queue.Of(st).Receive(ctx, "mail", []store.Event{event("new")}, queue.LeaseOnInsert{})
			_, recorded := queue.Of(st).Record(ctx, event("new"), "mail", "a", false)
			_, requested := operate.On(st).Request(ctx, operation)
			_, written := queue.Of(st).WriteOutbox(ctx, st.DB(), []store.Event{event("2")}, func(string) bool { return false })
			tx, err := st.DB().BeginTxx(ctx, nil)
			require.NoError(t, err)
			_, large := queue.Of(st).InsertLarge(ctx, tx, []store.Event{event("new"), event("newer")}, func(events []store.Event) (split [][]store.Event) {
				for i := range events {
					split = append(split, events[i:i+1])
				}
				return split
			})
			require.NoError(t, tx.Rollback())
			for what, err := range map[string]error{
				"Insert of one": insert("new"),
				"Insert of two": insert("new", "newer"),
				"InsertLarge":   large,
				"Receive":       received,
				"Record":        recorded,
				"End":           fail(),
				"Request":       requested,
				"WriteOutbox":   written,
			} {
				require.ErrorContains(t, err, "_pkey", what)
				require.ErrorContains(t, err, "the table's sequence is behind its rows", what)
				require.ErrorContains(t, err, "reprise doctor", what)
				require.NotErrorIs(t, err, queue.ErrKnown, what)
				require.NotErrorIs(t, err, store.ErrDuplicateID, what)
				require.True(t, sqldb.Refused(err), what)
				require.True(t, sqldb.Unacceptable(err), what)
			}
			var n int
			require.NoError(t, st.DB().Get(&n, `SELECT count(*) FROM reprise.events WHERE id LIKE 'new%'`))
			require.Zero(t, n)
			exec(t, db, `SELECT setval(pg_get_serial_sequence('reprise.handler_runs', 'id'), (SELECT max(id) FROM reprise.handler_runs))`)
			require.NoError(t, insert("new"))
		})
	}
}

// The database inserts events in one order, and creates their runs in the order of
// publishing.
func TestRunsAreInTheOrderOfPublishing(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := migrated(t, testdb.Open(t, testdb.Postgres(t)), "")
	require.NoError(t, queue.Of(st).Subscribe(ctx, store.Subscription{Topic: "orders", Handler: "mail"}, ""))
	require.NoError(t, queue.Of(st).Register(ctx, store.Instance{ID: "a", Host: "host"}))
	events := func(prefix string) (events []store.Event, ids []string) {
		for _, n := range []string{"9", "1", "5", "0", "7"} {
			events = append(events, store.Event{ID: prefix + n, Topic: "orders", Payload: []byte(`{}`), Source: "kafka"})
			ids = append(ids, prefix+n)
		}
		return events, ids
	}
	insert := func(events []store.Event, lease queue.LeaseOnInsert) queue.Inserted {
		inserted, err := queue.Of(st).Insert(ctx, st.DB(), events, lease)
		require.NoError(t, err)
		return inserted
	}
	for name, insert := range map[string]func(events []store.Event){
		"due": func(events []store.Event) { insert(events, queue.LeaseOnInsert{}) },
		"leased": func(events []store.Event) {
			inserted := insert(events, queue.LeaseOnInsert{Instance: "a", Wants: []queue.Want{{Topic: "orders", Handler: "mail", N: 2}}})
			require.Len(t, inserted.Leased, 2)
			require.Equal(t, 0, inserted.Leased[0].Event)
			require.Equal(t, 1, inserted.Leased[1].Event)
		},
		"partly known": func(events []store.Event) {
			insert(events[:2], queue.LeaseOnInsert{})
			inserted := insert(events, queue.LeaseOnInsert{})
			require.Equal(t, []store.EventID{events[2].EventID(), events[3].EventID(), events[4].EventID()}, inserted.IDs)
		},
		"large": func(events []store.Event) {
			tx, err := st.DB().BeginTxx(ctx, nil)
			require.NoError(t, err)
			inserted, err := queue.Of(st).InsertLarge(ctx, tx, events, func(events []store.Event) [][]store.Event { return [][]store.Event{events[:2], events[2:]} })
			require.NoError(t, err)
			require.NoError(t, tx.Commit())
			require.Equal(t, 5, inserted.Due)
			require.Len(t, inserted.IDs, 5)
		},
		"received": func(events []store.Event) {
			_, err := queue.Of(st).Receive(ctx, "mail", events, queue.LeaseOnInsert{})
			require.NoError(t, err)
		},
		"received, new": func(events []store.Event) {
			_, err := queue.Of(st).ReceiveNew(ctx, "mail", events, queue.LeaseOnInsert{})
			require.NoError(t, err)
		},
	} {
		batch, ids := events(name)
		insert(batch)
		var order []string
		require.NoError(t, st.DB().Select(&order, `SELECT event_id FROM reprise.handler_runs WHERE event_id LIKE $1 || '_' ORDER BY id`, name))
		require.Equal(t, ids, order, name)
	}
}
