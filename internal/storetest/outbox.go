package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

func relaying(promise promise) {
	never := func(string) bool { return false }
	outgoing := func(id, topic, key, payload string) store.Event {
		return store.Event{ID: id, Topic: topic, Key: key, Payload: []byte(payload), Metadata: map[string]string{"m": "v"}}
	}

	promise("what is written into the outbox comes out as it was, oldest first, and is there once", func(t *testing.T, db db) {
		events := []store.Event{
			outgoing("b", "orders", "k", `{"z": 1,  "a": 2}`),
			outgoing("a", "orders", "", "\x00\xff not JSON"),
			outgoing("c", "orders", "", ""),
		}
		fresh, err := db.WriteOutbox(ctx, db.DB(), events, never)
		require.NoError(t, err)
		require.Len(t, fresh, 3)
		fresh, err = db.WriteOutbox(ctx, db.DB(), append(events, outgoing("d", "invoices", "", "1")), never)
		require.NoError(t, err)
		require.Equal(t, []store.EventID{{Topic: "invoices", ID: "d"}}, fresh, "what is there already stays as it is")

		topics, err := db.WaitingTopics(ctx)
		require.NoError(t, err)
		require.Equal(t, []string{"invoices", "orders"}, topics)
		next, err := db.NextOutgoing(ctx, "orders", 10, 1<<20)
		require.NoError(t, err)
		require.Len(t, next, 3)
		for i, e := range events {
			require.Equal(t, e.ID, next[i].Event.ID)
			require.Equal(t, string(e.Payload), string(next[i].Event.Payload))
			require.Equal(t, e.Key, next[i].Event.Key)
			require.Equal(t, e.Metadata, next[i].Event.Metadata)
			require.Equal(t, store.OutgoingPending, next[i].State)
		}
		next, err = db.NextOutgoing(ctx, "orders", 2, 1<<20)
		require.NoError(t, err)
		require.Len(t, next, 2)
		next, err = db.NextOutgoing(ctx, "orders", 10, 1)
		require.NoError(t, err)
		require.Len(t, next, 1, "the first one comes whatever its size")
		next, err = db.NextOutgoing(ctx, "orders", 10, 17+12)
		require.NoError(t, err)
		require.Len(t, next, 3, "bytes of payload, not characters")
	})

	promise("another payload under an id of the outbox is refused", func(t *testing.T, db db) {
		_, err := db.WriteOutbox(ctx, db.DB(), []store.Event{outgoing("a", "orders", "", "1")}, never)
		require.NoError(t, err)
		_, err = db.WriteOutbox(ctx, db.DB(), []store.Event{outgoing("b", "orders", "", "1"), outgoing("a", "orders", "", "2")}, never)
		require.ErrorIs(t, err, store.ErrDuplicateID)
		require.True(t, sqldb.Refused(err))
		all, err := db.Outbox(ctx, store.OutboxFilter{})
		require.NoError(t, err)
		require.Len(t, all, 1, "nothing was written")
		_, err = db.WriteOutbox(ctx, db.DB(), []store.Event{outgoing("a", "invoices", "", "2")}, never)
		require.NoError(t, err, "an id is of a topic")
	})

	promise("one instance at a time is the relay, until its time is over or it resigns", func(t *testing.T, db db) {
		is := func(instance string, ttl time.Duration) bool {
			t.Helper()
			is, err := db.Relay(ctx, instance, ttl)
			require.NoError(t, err)
			return is
		}
		by := func() string {
			t.Helper()
			by, err := db.RelayedBy(ctx)
			require.NoError(t, err)
			return by
		}
		require.Empty(t, by())
		require.True(t, is("one", time.Minute))
		require.True(t, is("one", time.Minute))
		require.False(t, is("two", time.Minute))
		require.Equal(t, "one", by())
		require.NoError(t, db.ResignRelay(ctx, "two"))
		require.Equal(t, "one", by(), "nobody resigns for another")
		require.NoError(t, db.ResignRelay(ctx, "one"))
		require.True(t, is("two", -time.Second), "whose time is over at once")
		require.Empty(t, by())
		require.True(t, is("one", time.Minute))
	})

	promise("what is in the outbox is sent, refused, released and dropped, on record", func(t *testing.T, db db) {
		var events []store.Event
		for i := range 6 {
			events = append(events, outgoing(fmt.Sprint(i), []string{"free", "held"}[i%2], "", "1"))
		}
		_, err := db.WriteOutbox(ctx, db.DB(), events, func(topic string) bool { return topic == "held" })
		require.NoError(t, err)
		state := func(event string) store.Outgoing {
			t.Helper()
			found, err := db.Outbox(ctx, store.OutboxFilter{EventID: event})
			require.NoError(t, err)
			require.Len(t, found, 1)
			return found[0]
		}
		change := func(kind store.OperationKind, f store.OutboxFilter) store.Operation {
			t.Helper()
			o, err := db.ChangeOutbox(ctx, store.Operation{Kind: kind, RequestedBy: "maria", Reason: "because", Outbox: f})
			require.NoError(t, err)
			kept, err := db.Operation(ctx, o.ID)
			require.NoError(t, err)
			require.Equal(t, o, kept, "it is on record")
			return o
		}
		waiting := func(topic string) bool {
			t.Helper()
			waiting, err := db.Waiting(ctx, topic)
			require.NoError(t, err)
			return waiting
		}
		require.True(t, waiting("free"))
		require.False(t, waiting("held"))

		backlog := func(most, n int, failing bool) {
			t.Helper()
			got, fails, err := db.Backlog(ctx, "free", most)
			require.NoError(t, err)
			require.Equal(t, n, got)
			require.Equal(t, failing, fails)
		}
		backlog(10, 3, false)
		require.NoError(t, db.SendingFailed(ctx, state("0").ID, "connection refused"))
		backlog(2, 2, true)
		require.NoError(t, db.RefusedByBroker(ctx, state("2").ID, "too large"))
		counts, err := db.OutboxCounts(ctx)
		require.NoError(t, err)
		for i := range counts {
			require.False(t, counts[i].Oldest.IsZero())
			counts[i].Oldest = time.Time{}
		}
		require.Equal(t, []store.OutboxCount{
			{Topic: "free", State: store.OutgoingPending, N: 2, Error: "connection refused"},
			{Topic: "free", State: store.OutgoingRefused, N: 1, Error: "too large"},
			{Topic: "held", State: store.OutgoingHeld, N: 3},
		}, counts)

		require.NoError(t, db.Sent(ctx, []int64{state("0").ID, state("4").ID}))
		sent := state("0")
		require.Equal(t, store.OutgoingSent, sent.State)
		require.Equal(t, 1, sent.Failures)
		require.Empty(t, sent.Error)
		require.False(t, sent.SentAt.IsZero())
		require.False(t, waiting("free"))

		require.EqualValues(t, 3, change(store.Releasing, store.OutboxFilter{Topic: "held"}).Taken)
		require.True(t, waiting("held"))
		dropped := change(store.Dropping, store.OutboxFilter{EventID: "1"})
		require.EqualValues(t, 1, dropped.Taken)
		require.Equal(t, dropped.ID, state("1").OperationID)
		require.NoError(t, db.Sent(ctx, []int64{state("1").ID}), "a relay had it already")
		require.Equal(t, store.OutgoingSent, state("1").State, "the truth wins")

		require.EqualValues(t, 1, change(store.Sending, store.OutboxFilter{}).Taken, "what was refused, unless the state is given")
		require.Equal(t, store.OutgoingPending, state("2").State)
		require.Zero(t, state("2").Failures)
		require.EqualValues(t, 2, change(store.Sending, store.OutboxFilter{State: store.OutgoingSent, Topic: "free"}).Taken)
		require.Zero(t, change(store.Sending, store.OutboxFilter{State: store.OutgoingSent, Topic: "free"}).Taken)

		for name, o := range map[string]store.Operation{
			"nobody":         {Kind: store.Dropping},
			"another kind":   {Kind: store.Replaying, RequestedBy: "maria"},
			"a wrong state":  {Kind: store.Dropping, RequestedBy: "maria", Outbox: store.OutboxFilter{State: store.OutgoingSent}},
			"no state":       {Kind: store.Dropping, RequestedBy: "maria", Outbox: store.OutboxFilter{State: "LOST"}},
			"an odd release": {Kind: store.Releasing, RequestedBy: "maria", Outbox: store.OutboxFilter{State: store.OutgoingPending}},
		} {
			_, err := db.ChangeOutbox(ctx, o)
			require.Error(t, err, name)
		}
	})

	promise("what a change of the outbox would do is counted by topic and state, and nothing is changed", func(t *testing.T, db db) {
		var events []store.Event
		for i := range 6 {
			events = append(events, outgoing(fmt.Sprint(i), []string{"free", "held"}[i%2], "", "1"))
		}
		_, err := db.WriteOutbox(ctx, db.DB(), events, func(topic string) bool { return topic == "held" })
		require.NoError(t, err)
		free, err := db.Outbox(ctx, store.OutboxFilter{Topic: "free"})
		require.NoError(t, err)
		require.NoError(t, db.RefusedByBroker(ctx, free[0].ID, "too large"))
		require.NoError(t, db.Sent(ctx, []int64{free[1].ID}))
		would := func(kind store.OperationKind, f store.OutboxFilter) []store.OutboxCount {
			t.Helper()
			counts, err := db.PreviewOutbox(ctx, store.Operation{Kind: kind, RequestedBy: "maria", Outbox: f})
			require.NoError(t, err)
			for i := range counts {
				require.False(t, counts[i].Oldest.IsZero())
				counts[i].Oldest = time.Time{}
			}
			return counts
		}
		refused := store.OutboxCount{Topic: "free", State: store.OutgoingRefused, N: 1, Error: "too large"}
		held := store.OutboxCount{Topic: "held", State: store.OutgoingHeld, N: 3}
		require.Equal(t, []store.OutboxCount{refused}, would(store.Sending, store.OutboxFilter{}))
		require.Equal(t, []store.OutboxCount{{Topic: "free", State: store.OutgoingSent, N: 1}}, would(store.Sending, store.OutboxFilter{State: store.OutgoingSent}))
		require.Equal(t, []store.OutboxCount{held}, would(store.Releasing, store.OutboxFilter{}))
		require.Equal(t, []store.OutboxCount{{Topic: "free", State: store.OutgoingPending, N: 1}, refused, held}, would(store.Dropping, store.OutboxFilter{}))
		require.Empty(t, would(store.Dropping, store.OutboxFilter{Topic: "other"}))
		_, err = db.PreviewOutbox(ctx, store.Operation{Kind: store.Dropping, RequestedBy: "maria", Outbox: store.OutboxFilter{State: store.OutgoingSent}})
		require.ErrorContains(t, err, "what is SENT: want of the states [PENDING HELD REFUSED]")

		unsent, err := db.Outbox(ctx, store.OutboxFilter{Unsent: true})
		require.NoError(t, err)
		require.Len(t, unsent, 5, "nothing was changed")
		operations, err := db.Operations(ctx, 0, 0)
		require.NoError(t, err)
		require.Empty(t, operations)
	})

	promise("what was released waits since then, and not since it was written", func(t *testing.T, db db) {
		_, err := db.WriteOutbox(ctx, db.DB(), []store.Event{outgoing("1", "held", "", "1")}, func(string) bool { return true })
		require.NoError(t, err)
		db.exec(`UPDATE reprise.outbox SET written_at = '2026-07-01T12:00:00.000Z'`)
		written, err := db.OutboxCounts(ctx)
		require.NoError(t, err)
		o, err := db.ChangeOutbox(ctx, store.Operation{Kind: store.Releasing, RequestedBy: "maria"})
		require.NoError(t, err)
		released, err := db.OutboxCounts(ctx)
		require.NoError(t, err)
		require.True(t, written[0].Oldest.Equal(time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)))
		require.True(t, released[0].Oldest.Equal(o.RequestedAt))
	})

	promise("what the application says of its topics, and what is published by hand, is on record", func(t *testing.T, db db) {
		require.NoError(t, db.DeclareTopics(ctx, []store.Topic{{Topic: store.AllTopics, Transport: "kafka", Mode: "direct"}, {Topic: "orders", Manual: true}}))
		require.NoError(t, db.DeclareTopics(ctx, []store.Topic{{Topic: "orders", Transport: "kafka", Mode: "hold", Manual: true, Description: "for the warehouse"}}))
		topics, err := db.Topics(ctx)
		require.NoError(t, err)
		for i := range topics {
			require.False(t, topics[i].DeclaredAt.IsZero())
			topics[i].DeclaredAt = time.Time{}
		}
		require.Equal(t, []store.Topic{
			{Topic: "*", Transport: "kafka", Mode: "direct"},
			{Topic: "orders", Transport: "kafka", Mode: "hold", Manual: true, Description: "for the warehouse"},
		}, topics)
		require.Error(t, db.DeclareTopics(ctx, []store.Topic{{}}))

		o, err := db.RecordPublishing(ctx, store.Operation{RequestedBy: "maria", Reason: "the warehouse lost it", Selection: store.Filter{Topic: "orders"}})
		require.NoError(t, err)
		require.NoError(t, db.Published(ctx, o.ID, 17, true))
		kept, err := db.Operation(ctx, o.ID)
		require.NoError(t, err)
		require.EqualValues(t, 17, kept.Taken)
		require.True(t, kept.Complete)
		require.Equal(t, store.Publishing, kept.Kind)
		_, err = db.RecordPublishing(ctx, store.Operation{Selection: store.Filter{Topic: "orders"}})
		require.Error(t, err)
	})

	promise("what was sent or dropped is pruned, and nothing else", func(t *testing.T, db db) {
		_, err := db.WriteOutbox(ctx, db.DB(), []store.Event{outgoing("sent", "t", "", "1"), outgoing("waits", "t", "", "1"), outgoing("dropped", "t", "", "1")}, never)
		require.NoError(t, err)
		all, err := db.Outbox(ctx, store.OutboxFilter{})
		require.NoError(t, err)
		require.NoError(t, db.Sent(ctx, []int64{all[2].ID}))
		_, err = db.ChangeOutbox(ctx, store.Operation{Kind: store.Dropping, RequestedBy: "maria", Outbox: store.OutboxFilter{EventID: "dropped"}})
		require.NoError(t, err)
		now, err := db.Clock(ctx)
		require.NoError(t, err)
		pruned, err := db.Prune(ctx, store.Prune{Before: now.Add(-time.Hour), By: maria}, nil)
		require.NoError(t, err)
		require.Zero(t, pruned)
		for _, p := range []store.Prune{{Before: now.Add(-time.Hour), DryRun: true}, {Before: now.Add(time.Hour), DryRun: true}} {
			pruned, err = db.Prune(ctx, p, nil)
			require.NoError(t, err)
			require.Equal(t, store.Pruned{Outgoing: map[bool]int64{true: 2}[p.Before.After(now)]}, pruned)
		}
		pruned, err = db.Prune(ctx, store.Prune{Before: now.Add(time.Hour), By: maria}, nil)
		require.NoError(t, err)
		require.Equal(t, store.Pruned{Outgoing: 2}, pruned)
		left, err := db.Outbox(ctx, store.OutboxFilter{})
		require.NoError(t, err)
		require.Len(t, left, 1)
		require.Equal(t, "waits", left[0].Event.ID)
	})
}
