package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/store"
)

// outbox writes n messages of a topic into the outbox, and returns their ids.
func (d *db) outbox(topic string, n int, held bool) []int64 {
	d.t.Helper()
	var events []store.Event
	for i := range n {
		events = append(events, store.Event{
			ID: fmt.Sprintf("%s-%d", topic, i), Topic: topic, Key: fmt.Sprintf("order-%d", i),
			Payload: fmt.Appendf(nil, `{"order":{"id":%d},"email":"ada@example.com"}`, i), Metadata: map[string]string{"name": "order"},
		})
	}
	fresh, err := d.WriteOutbox(d.t.Context(), d.DB(), events, func(string) bool { return held })
	require.NoError(d.t, err)
	require.Len(d.t, fresh, n)
	ids := make([]int64, n)
	for i, e := range events {
		found, err := d.Outbox(d.t.Context(), store.OutboxFilter{EventID: e.ID, Topic: topic})
		require.NoError(d.t, err)
		ids[i] = found[0].ID
	}
	return ids
}

// state is where a message of the outbox stands.
func (d *db) state(id int64) store.OutgoingState {
	d.t.Helper()
	found, err := d.Outbox(d.t.Context(), store.OutboxFilter{IDs: []int64{id}})
	require.NoError(d.t, err)
	require.Len(d.t, found, 1)
	return found[0].State
}

// messages are the events of a list of the outbox.
func messages(r result) (events []string, next *int64) {
	r.t.Helper()
	var list wire.Messages
	r.ok().json(&list)
	for _, o := range list.Messages {
		events = append(events, o.Event)
	}
	return events, list.Next
}

func TestOutboxList(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.reprise("outbox", "list").fails(exitNothing, "no message is selected that is neither SENT nor DROPPED")
		orders := db.outbox("orders", 4, false)
		db.outbox("invoices", 1, true)
		require.NoError(t, db.Sent(t.Context(), orders[:1]))
		require.NoError(t, db.RefusedByBroker(t.Context(), orders[1], "message too large"))

		r := db.reprise("outbox", "list").ok()
		lines := strings.Split(strings.TrimSpace(r.out), "\n")
		require.Equal(t, []string{"ID", "STATE", "TOPIC", "KEY", "EVENT", "WRITTEN", "FAILURES", "ERROR"}, strings.Fields(lines[0]))
		require.Len(t, lines, 5)
		require.Equal(t, []string{"HELD", "invoices", "order-0", "invoices-0"}, strings.Fields(lines[1])[1:5], "the newest first")
		require.Contains(t, lines[4], "message too large")
		require.NotContains(t, r.out, "ada@example.com")

		for flags, want := range map[string][]string{
			"":                 {"invoices-0", "orders-3", "orders-2", "orders-1"},
			"--state pending":  {"orders-3", "orders-2"},
			"--state SENT":     {"orders-0"},
			"--topic invoices": {"invoices-0"},
			"--key order-1":    {"orders-1"},
			"--event orders-0": {"orders-0"},
			"--all --since 1h": {"invoices-0", "orders-3", "orders-2", "orders-1", "orders-0"},
		} {
			events, next := messages(db.reprise(strings.Fields("outbox list -o json " + flags)...))
			require.Equal(t, want, events, flags)
			require.Nil(t, next)
		}
		db.reprise("outbox", "list", "--until", "1h").fails(exitNothing, "no message is selected")
		db.reprise("outbox", "list", "--state", "LOST").fails(exitUsage, "want PENDING, HELD, SENT, REFUSED, DROPPED")
		db.reprise("outbox", "list", "--limit", "0").fails(exitUsage, "want a limit of at least 1")

		events, next := messages(db.reprise("outbox", "list", "--limit", "3", "-o", "json"))
		require.Equal(t, []string{"invoices-0", "orders-3", "orders-2"}, events)
		require.Contains(t, db.reprise("outbox", "list", "--limit", "3").ok().errs, fmt.Sprintf("More: the same with --before %d", *next))
		events, next = messages(db.reprise("outbox", "list", "--limit", "3", "-o", "json", "--before", fmt.Sprint(*next)))
		require.Equal(t, []string{"orders-1"}, events)
		require.Nil(t, next)
	})
}

func TestOutboxShow(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		ids := db.outbox("orders", 2, false)
		require.NoError(t, db.RefusedByBroker(t.Context(), ids[0], "message too large"))
		id := fmt.Sprint(ids[0])
		r := db.reprise("outbox", "show", id, fmt.Sprint(ids[1])).ok()
		for _, want := range []string{"REFUSED", "message too large", "orders-0", "order-0", "  name", "orders-1"} {
			require.Contains(t, r.out, want)
		}
		require.NotContains(t, r.out, "ada@example.com")
		require.NotContains(t, r.out, "OPERATION")
		require.Contains(t, db.reprise("outbox", "show", id, "--payload").ok().out, "ada@example.com")

		db.reprise("outbox", "send", id, "--reason", "the limit is raised", "--yes").ok()
		require.NoError(t, db.Sent(t.Context(), ids[:1]))
		r = db.reprise("outbox", "show", id).ok()
		require.Contains(t, r.out, "LAST OPERATION")
		require.Contains(t, r.out, "the limit is raised")
		require.Contains(t, r.out, "SENT")
		db.reprise("outbox", "show", "4711").fails(exitNothing, "message 4711 is not in the outbox")
		db.reprise("outbox", "show", "first").fails(exitUsage, `message "first": want the number`)
	})
}

func TestOutboxStatus(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		require.Equal(t, "RELAY  nobody\n\nNothing waits, is held or was refused.\n", db.reprise("outbox", "status").ok().out)
		db.outbox("orders", 3, false)
		db.outbox("invoices", 1, true)
		is, err := db.Relay(t.Context(), "host/1/abc", time.Minute)
		require.NoError(t, err)
		require.True(t, is)
		var status wire.OutboxStatus
		db.reprise("outbox", "status", "-o", "json").ok().json(&status)
		require.Equal(t, "host/1/abc", status.Relay)
		require.Len(t, status.Counts, 2)
		require.Equal(t, []any{"orders", store.OutgoingPending, int64(3)}, []any{status.Counts[1].Topic, status.Counts[1].State, status.Counts[1].Messages})
		r := db.reprise("outbox", "status").ok()
		require.Contains(t, r.out, "RELAY  host/1/abc")
		require.Contains(t, r.out, "HELD")
	})
}

func TestWhatTheBrokerRefusedIsSentAgain(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		ids := db.outbox("orders", 3, false)
		require.NoError(t, db.RefusedByBroker(t.Context(), ids[0], "message too large"))
		require.NoError(t, db.Sent(t.Context(), ids[1:2]))

		db.reprise("outbox", "send", "--yes").fails(exitUsage, "nothing is selected: name messages")
		db.reprise("outbox", "send", "--state", "SENT", "--yes").fails(exitUsage, "nothing is selected: name messages")
		db.reprise("outbox", "send", "--all", "--topic", "orders", "--yes").fails(exitUsage, "--all and something else")
		db.reprise("outbox", "send", "--all", "--state", "PENDING").fails(exitUsage, "what is PENDING: want of the states")
		r := db.reprise("outbox", "send", "--topic", "orders", "--dry-run").ok()
		require.Contains(t, r.out, "message too large")
		require.Contains(t, r.errs, "1 message would be sent again. Nothing was done.")
		var would wire.OutboxPlan
		db.reprise("outbox", "send", "--state", "SENT", "--topic", "orders", "--dry-run", "-o", "json").ok().json(&would)
		require.EqualValues(t, 1, would.Total.N)
		require.Equal(t, store.OutgoingSent, would.Parts[0].State)
		db.reprise("outbox", "send", "--topic", "orders").fails(exitUsage, "Send 1 message again of orders (1)? There is no terminal to ask on: say --yes")
		db.reprise("replays", "list").fails(exitNothing, "no operation is on record")
		require.Equal(t, store.OutgoingRefused, db.state(ids[0]))

		r = db.reprise("outbox", "send", "--topic", "orders", "--by", "maria", "--reason", "the limit is raised", "--yes").ok()
		require.Contains(t, r.out, "1 (send)")
		require.Contains(t, r.out, "by maria at")
		require.Contains(t, r.errs, "Nobody sends at this moment: a running application with the transport configured does.")
		require.Equal(t, store.OutgoingPending, db.state(ids[0]))
		require.Equal(t, store.OutgoingSent, db.state(ids[1]), "only what is named")

		window := []string{"outbox", "send", "--state", "sent", "--topic", "orders", "--since", "1h", "--yes", "-o", "json"}
		require.EqualValues(t, 1, db.reprise(window...).ok().operation().Taken)
		require.Equal(t, store.OutgoingPending, db.state(ids[1]))
		db.reprise(window...).fails(exitNothing, "nothing is selected: see reprise outbox list --state SENT --topic orders --since ")
	})
}

func TestWhatIsHeldIsReleased(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		held := db.outbox("orders", 3, true)
		free := db.outbox("invoices", 1, false)
		is, err := db.Relay(t.Context(), "host/1/abc", time.Minute)
		require.NoError(t, err)
		require.True(t, is)
		r := db.reprise("outbox", "release", fmt.Sprint(held[0]), fmt.Sprint(free[0]), "4711", "--yes").ok()
		require.Contains(t, r.errs, fmt.Sprintf("Not selected: message %d is PENDING, message 4711 is not there.", free[0]))
		require.Contains(t, r.errs, "host/1/abc sends, within seconds")
		require.Equal(t, []store.OutgoingState{store.OutgoingPending, store.OutgoingHeld}, []store.OutgoingState{db.state(held[0]), db.state(held[1])})
		db.reprise("outbox", "release", fmt.Sprint(free[0]), "--yes").fails(exitNothing, fmt.Sprintf("nothing is selected: message %d is PENDING", free[0]))
		db.reprise("outbox", "release", "--yes").fails(exitUsage, "nothing is selected: name messages")
		require.EqualValues(t, 2, db.reprise("outbox", "release", "--all", "--yes", "-o", "json").ok().operation().Taken)
		require.Contains(t, db.reprise("replays", "show", "2").ok().out, "--all")
	})
}

func TestWhatIsDroppedIsNotSent(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		ids := db.outbox("orders", 3, false)
		require.NoError(t, db.Sent(t.Context(), ids[2:]))
		db.reprise("outbox", "drop", "--topic", "orders", "--yes").fails(exitUsage, "--reason is missing")
		db.reprise("outbox", "drop", "--all", "--state", "SENT", "--reason", "x").fails(exitUsage, "what is SENT: want of the states")
		require.Contains(t, db.reprise("outbox", "drop", "--topic", "orders", "--dry-run").ok().errs, "2 messages would be dropped. Nothing was done.")
		r := db.reprise("outbox", "drop", "--key", "order-0", "--reason", "test order", "--yes").ok()
		require.Contains(t, r.out, "1 (drop)")
		require.NotContains(t, r.errs, "sends")
		require.Equal(t, []store.OutgoingState{store.OutgoingDropped, store.OutgoingPending}, []store.OutgoingState{db.state(ids[0]), db.state(ids[1])})
		db.reprise("outbox", "send", fmt.Sprint(ids[0]), "--yes").fails(exitNothing, "is DROPPED")
		db.reprise("outbox", "send", fmt.Sprint(ids[0]), "--state", "DROPPED", "--yes").ok()
		require.Equal(t, store.OutgoingPending, db.state(ids[0]))
	})
}

func TestWhatIsDoneToTheOutboxIsOnRecordAndNotSteered(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.outbox("orders", 2, true)
		db.reprise("outbox", "drop", "--key", "order-1", "--reason", "test order", "--yes").ok()
		db.reprise("outbox", "release", "--topic", "orders", "--since", "1h", "--reason", "checked", "--yes").ok()
		db.reprise("publish", topic, "{}", "--reason", "lost").ok()

		lines := strings.Split(db.reprise("replays", "list").ok().out, "\n")
		require.Contains(t, lines[1], "publish")
		require.Contains(t, lines[1], "--topic user.signed_up")
		require.Contains(t, lines[2], "--topic orders --since ")
		require.Contains(t, lines[3], "--key order-1")
		require.NotContains(t, strings.Join(lines, ""), "all at once")
		require.NotContains(t, strings.Join(lines, ""), "requested")
		var list wire.Operations
		db.reprise("replays", "list", "-o", "json").ok().json(&list)
		require.Equal(t, map[string]any{"key": "order-1"}, list.Operations[2].Selection)

		for id, what := range map[string]string{"1": "drop", "2": "release", "3": "publish"} {
			r := db.reprise("replays", "show", id, "--wait").ok()
			require.Contains(t, r.out, "over")
			require.NotContains(t, r.out, "WAITING")
			require.NotContains(t, r.out, "reprise replays")
			for _, steer := range []string{"pause", "resume", "cancel", "undo"} {
				r = db.reprise("replays", steer, id).fails(exitFailed, fmt.Sprintf("operation %s is of kind %s: want one of", id, what))
				require.NotContains(t, r.errs, "To go on")
			}
		}
	})
}

func TestASelectionOfTheOutboxIsWrittenAsItIsTyped(t *testing.T) {
	t.Parallel()
	for _, typed := range []string{
		"1 2 --state SENT --topic t --event e --key 'two words' --since 2026-07-01T00:00:00Z --until 2026-07-02T00:00:00Z",
		"--state SENT --all", "--all",
	} {
		var s outboxSelection
		c := &cobra.Command{Use: "test"}
		s.add(c, "")
		s.addState(c, "")
		require.NoError(t, c.ParseFlags(wordsOf(typed)))
		f, err := s.named(c.Flags().Args())
		require.NoError(t, err)
		require.Equal(t, typed, outboxFlagsOf(f))
	}
}

func TestTopics(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.reprise("topics", "list").fails(exitNothing, "operators may publish on all of them")
		require.NoError(t, db.DeclareTopics(t.Context(), []store.Topic{{Topic: store.AllTopics, Transport: "kafka", Mode: "direct"}}))
		require.Equal(t, []string{"*", "kafka", "direct", "yes"}, strings.Fields(strings.Split(db.reprise("topics", "list").ok().out, "\n")[1])[:4], "who names none allows all")
		require.NoError(t, db.DeclareTopics(t.Context(), []store.Topic{
			{Topic: "a.first", Transport: "kafka", Mode: "hold", Manual: true, Description: "for the warehouse"}, {Topic: "b.second"},
		}))
		lines := strings.Split(db.reprise("topics", "list").ok().out, "\n")
		require.Equal(t, []string{"TOPIC", "TRANSPORT", "MODE", "MANUAL", "DESCRIPTION", "DECLARED"}, strings.Fields(lines[0]))
		require.Equal(t, []string{"a.first", "kafka", "hold", "yes", "for", "the", "warehouse"}, strings.Fields(lines[1])[:7])
		require.Equal(t, []string{"b.second", "database", "no"}, strings.Fields(lines[2])[:3])
		require.Equal(t, []string{"*", "kafka", "direct", "no"}, strings.Fields(lines[3])[:4], "the others come last")
		var list wire.Topics
		db.reprise("topics", "list", "-o", "json").ok().json(&list)
		require.Equal(t, store.AllTopics, list.Topics[2].Topic)
		require.Empty(t, list.Topics[1].Transport)
		require.True(t, list.Topics[0].Manual)
	})
}
