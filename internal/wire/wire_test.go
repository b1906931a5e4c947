package wire_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/store"
)

var (
	zone = time.FixedZone("CEST", 7200)
	noon = time.Date(2026, 7, 1, 12, 0, 0, 123e6, zone)
)

// full has every field set, and text that an encoder may escape.
var full = struct {
	run       store.Run
	event     store.EventHead
	attempt   store.Attempt
	operation store.Operation
	action    store.Action
	message   store.Outgoing
	count     store.OutboxCount
}{
	run: store.Run{
		ID: 17, EventID: "e-1", Topic: "user.signed_up", Handler: "mail", Status: store.Failed, Attempt: 5, Tries: 2, Cycle: 1, Key: "ada",
		Instance: "host/1/abc", DueAt: noon, StartedAt: noon.Add(time.Second), FinishedAt: noon.Add(2 * time.Second),
		ErrorKind: store.KindPanic, Error: "451 <down> & out", Fingerprint: "0123456789abcdef", ReplayID: 7, PublishedAt: noon.Add(-time.Hour),
	},
	event: store.EventHead{Event: store.Event{
		ID: "e-1", Topic: "user.signed_up", Key: "ada", Metadata: map[string]string{"b": "<2>", "a": "1"}, Source: "kafka", Amends: "e-0", PublishedAt: noon,
	}, Bytes: 7, MetadataBytes: 99},
	attempt: store.Attempt{
		RunID: 17, Attempt: 4, Cycle: 1, Kind: store.KindPanic, Message: "nil map", Stack: "main.go:1\n", Instance: "host/1/abc", StartedAt: noon, FinishedAt: noon.Add(time.Second),
	},
	operation: store.Operation{
		ID: 7, Kind: store.Replaying, State: store.Paused, RequestedBy: "maria", Reason: "the mail server is back",
		Selection: store.Filter{
			IDs: []int64{17}, Status: store.Failed, Handler: "mail", Topic: "user.signed_up", EventID: "e-1", Key: "ada", Kind: store.KindPanic, Text: "451",
			Group: "0123456789abcdef", Replay: 3, Since: noon, Until: noon.Add(time.Hour), Payload: []store.Condition{{Path: []string{"user", "id"}, Op: store.Equal, Value: "1"}},
		},
		Outbox:         store.OutboxFilter{IDs: []int64{3}, State: store.OutgoingHeld, Unsent: true, Topic: "orders", EventID: "o-1", Key: "4711", Since: noon, Until: noon.Add(time.Hour)},
		EvenSuccessful: true, Rate: 0.5, Total: store.Count{N: 3, More: true}, Taken: 2, Complete: true, RequestedAt: noon,
	},
	action: store.Action{
		ID: 5, Kind: store.Pruning, Operation: 7, Handler: "mail", Topic: "user.signed_up", Before: noon, Failed: true, Discarded: true,
		By: store.By{Name: "maria", Reason: "space"}, Runs: 1, Events: 2, Outgoing: 3, At: noon,
	},
	message: store.Outgoing{
		ID: 3, Event: store.Event{ID: "o-1", Topic: "orders", Key: "4711", PublishedAt: noon}, State: store.OutgoingRefused, Failures: 2, Error: "too large", OperationID: 7, SentAt: noon,
	},
	count: store.OutboxCount{Topic: "orders", State: store.OutgoingHeld, N: 3, Oldest: noon, Error: "too large"},
}

// shapes has each shape twice: with everything set, and with nothing.
func shapes() []any {
	event := wire.NewEvent(full.event)
	event.SetPayload([]byte(`{"a":1}`))
	event.Decoded, event.DecodeError = json.RawMessage(`{"a":"<1>"}`), "unknown type"
	sending := full.operation
	sending.Kind = store.Sending
	progress := store.Progress{Operation: full.operation, Succeeded: 1, Failed: 2, Discarded: 3, Running: 4, Waiting: 5, Elsewhere: 6, Arrived: store.Count{N: 7, More: true}}
	payload := []byte(`{"a":"<1>"}`)
	exported := full.event.Event
	exported.Payload = payload
	subscribed := store.Subscribed{
		Subscription: store.Subscription{Topic: "user.signed_up", Handler: "mail"}, Policy: json.RawMessage(`{"attempts":5}`),
		Since: noon, LastSeenAt: noon, Instances: 2, Due: store.Count{N: 10_000, More: true}, OldestDue: noon,
	}
	group := store.Group{
		Fingerprint: "0123456789abcdef", Handler: "mail", Kind: store.KindError, Error: "451", Runs: store.Count{N: 3}, First: noon, Last: noon, Oldest: 1, Newest: 17,
	}
	return []any{
		wire.NewRuns([]store.Run{full.run, {}}, 16, noon), wire.NewRuns(nil, 0, noon),
		wire.NewEvents([]store.EventHead{full.event, {}}, &store.EventMark{At: noon, Topic: "a/b", ID: "e/1"}), wire.NewEvents(nil, nil), event,
		wire.NewRunDetails(full.run, []store.Attempt{full.attempt, {}}, 9, []store.Operation{full.operation}, noon), wire.NewRunDetails(store.Run{}, nil, 0, nil, noon),
		wire.NewEventDetails(event, []store.Run{full.run}, noon), wire.NewEventDetails(wire.Event{}, nil, noon),
		wire.NewMessageDetails(full.message, event, &full.operation), wire.NewMessageDetails(store.Outgoing{}, wire.Event{}, nil),
		wire.NewOperations([]store.Operation{full.operation, sending, {}}, 6), wire.NewOperations(nil, 0),
		wire.NewProgress(progress, []store.Action{full.action}), wire.NewProgress(store.Progress{Operation: store.Operation{Kind: store.Discarding}}, nil),
		wire.NewActions([]store.Action{full.action, {}}, 4), wire.NewActions(nil, 0),
		wire.NewGroups(store.Grouping{Groups: []store.Group{group, {}}, More: true, Among: 20_000, Counting: true}), wire.NewGroups(store.Grouping{}),
		wire.NewHandlers([]store.Subscribed{subscribed, {}}), wire.NewHandlers(nil),
		wire.NewTopics([]store.Topic{{Topic: "orders", Transport: "kafka", Mode: "hold", Manual: true, Description: "prints", DeclaredAt: noon}, {}}), wire.NewTopics(nil),
		wire.NewMessages([]store.Outgoing{full.message, {}}, 2), wire.NewMessages(nil, 0),
		wire.NewOutboxStatus("host/1/abc", []store.OutboxCount{full.count, {}}), wire.NewOutboxStatus("", nil),
		wire.NewOutboxPlan(3, []store.OutboxCount{full.count}), wire.NewOutboxPlan(0, nil),
		wire.NewBackfillPlan(full.operation),
		wire.Published{Published: 1, Operation: 7, Outbox: store.OutgoingHeld, IDs: []string{"e-1"}}, wire.Published{},
		wire.NewEdited(full.operation, full.run),
		wire.NewPruned(noon, store.Pruned{Events: 1, Runs: 2, Outgoing: 3}), wire.NewPruned(time.Time{}, store.Pruned{}),
		wire.NewDocument(full.run, exported, []store.Attempt{full.attempt, {}}, true), wire.NewDocument(store.Run{}, store.Event{}, nil, false),
	}
}

// Scripts read what is printed, byte for byte: the names, their order, and what is null
// or left out.
func TestShapes(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	to := json.NewEncoder(&out)
	to.SetEscapeHTML(false)
	to.SetIndent("", "  ")
	for _, shape := range shapes() {
		require.NoError(t, to.Encode(shape))
	}
	golden, err := os.ReadFile("testdata/shapes.json")
	require.NoError(t, err)
	require.Equal(t, string(golden), out.String())
}

func TestAMarkIsReadBack(t *testing.T) {
	t.Parallel()
	for _, m := range []*store.EventMark{{At: noon.UTC(), Topic: "user.signed_up", ID: "e-1"}, {At: noon.UTC(), Topic: "a/b %2F", ID: "e/1"}, {At: noon.UTC(), ID: "1"}} {
		got, err := wire.ParseMark(wire.Mark(m))
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
	for _, text := range []string{"", "yesterday", "2026-07-01T12:00:00Z", "2026-07-01T12:00:00Z/topic", "2026-07-01T12:00:00Z/%/1"} {
		_, err := wire.ParseMark(text)
		require.ErrorContains(t, err, "want it as the last page said it")
	}
}

func TestView(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]store.Run{
		"":             {Status: store.Failed},
		wire.Due:       {Status: store.Pending, DueAt: noon.Add(-time.Second)},
		wire.Scheduled: {Status: store.Pending, DueAt: noon.Add(time.Hour)},
		wire.Running:   {Status: store.Pending, Instance: "host/1/abc"},
		wire.Held:      {Status: store.Pending, DueAt: store.FarAway},
	} {
		require.Equal(t, want, wire.View(r, noon))
	}
	require.Nil(t, wire.NewRun(store.Run{Status: store.Pending, DueAt: store.FarAway}, noon).DueAt)
}

// A payload keeps its bytes, and a part of one is not taken for the whole.
func TestThePayloadOfAnEvent(t *testing.T) {
	t.Parallel()
	for read, want := range map[string]string{
		`{"a":1}`:          `"payload":{"a":1}`,
		"{\"a\":\"\xff\"}": `"payload_base64":"eyJhIjoi/yJ9"`,
		"text":             `"payload_base64":"dGV4dA=="`,
	} {
		for _, cut := range []int64{0, 1} {
			event := wire.NewEvent(store.EventHead{Bytes: int64(len(read)) + cut})
			event.SetPayload([]byte(read))
			shown, err := json.Marshal(event)
			require.NoError(t, err)
			if cut > 0 {
				require.Contains(t, string(shown), `"payload_start":`)
				require.NotContains(t, string(shown), want)
			} else {
				require.Contains(t, string(shown), want)
				require.NotContains(t, string(shown), `"payload_start"`)
			}
		}
	}
}

// What a document holds comes back, whatever the form of the payload.
func TestADocumentIsReadBack(t *testing.T) {
	t.Parallel()
	for payload, inline := range map[string]bool{`{"a":1}`: true, "text": false, "\xff": false, "": false} {
		event := full.event.Event
		event.Payload = []byte(payload)
		run := full.run
		run.Instance, run.ReplayID, run.PublishedAt = "", 0, event.PublishedAt
		gotRun, gotEvent, gotAttempts, err := wire.NewDocument(run, event, []store.Attempt{full.attempt}, inline).Record()
		require.NoError(t, err)
		require.Equal(t, run, gotRun)
		require.Equal(t, event, gotEvent)
		require.Equal(t, []store.Attempt{full.attempt}, gotAttempts)
	}
	_, _, _, err := wire.Document{}.Record()
	require.ErrorContains(t, err, "the event has 0 payloads: want one")
}
