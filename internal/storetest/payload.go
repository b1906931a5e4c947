package storetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func payloads(promise promise) {
	promise("any payload and any metadata come back as they were", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		published := 0
		rapid.Check(t, func(t *rapid.T) {
			sent := make([]store.Event, rapid.IntRange(1, 4).Draw(t, "events"))
			for i := range sent {
				published++
				sent[i] = store.Event{
					ID:       fmt.Sprint(published),
					Topic:    topic,
					Payload:  payload().Draw(t, "payload"),
					Metadata: rapid.MapOfN(text, text, 0, 3).Draw(t, "metadata"),
				}
			}
			requireSame(t, db, sent)
		})
	})

	promise("a MiB of noise comes back as it was", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		noise := make([]byte, 1<<20)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		e := event("1")
		e.Payload = noise
		requireSame(t, db, []store.Event{e})
	})

	promise("a MiB of JSON comes back as it was", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		e := event("1")
		e.Payload = []byte(`[` + strings.Repeat(`"<é>",`, 1<<17) + `null]`)
		requireSame(t, db, []store.Event{e})
	})

	promise("no payload is an empty one", func(t *testing.T, db db) {
		e := event("1")
		e.Payload = nil
		db.publish(e)
		stored, err := db.Event(ctx, topic, "1")
		require.NoError(t, err)
		require.NotNil(t, stored.Payload)
		require.Empty(t, stored.Payload)
	})

	promise("JSON is legible in the table, and nothing else is text", func(t *testing.T, db db) {
		for i, text := range []string{`{"email": "ada@example.com"}`, ` [1 , 2] `, `"é\u0000"`, `7`} {
			id := fmt.Sprint("json ", i)
			db.publish(store.Event{ID: id, Topic: topic, Payload: []byte(text)})
			require.Equal(t, []string{text}, db.column(`SELECT payload FROM reprise.events WHERE id = $1 AND payload_bytes IS NULL`, id))
		}
		for i, other := range []string{"", "plain", "{", "\x00", "\xff", strings.Repeat("[", 5000) + strings.Repeat("]", 5000)} {
			id := fmt.Sprint("bytes ", i)
			db.publish(store.Event{ID: id, Topic: topic, Payload: []byte(other)})
			require.Len(t, db.column(`SELECT id FROM reprise.events WHERE id = $1 AND payload IS NULL`, id), 1)
		}
	})

	promise("metadata is legible in the table", func(t *testing.T, db db) {
		e := event("1")
		e.Metadata = map[string]string{"by": "ada"}
		db.publish(e, event("2"))
		require.Equal(t, []string{`{"by":"ada"}`, `{}`}, db.column(`SELECT metadata FROM reprise.events ORDER BY id`))
	})

	promise("what another transport delivered comes back as it was", func(t *testing.T, db db) {
		for i, p := range []string{`{"a": 1, "a":2}`, "", "plain", "\x00\xff", `"\ud800"`} {
			e := store.Event{ID: fmt.Sprint(i), Topic: topic, Payload: []byte(p), Metadata: map[string]string{"é": "\x00"}, Source: "kafka"}
			_, err := db.record(e, "mail", "a", false)
			require.NoError(t, err, "payload %q", p)
			stored, err := db.Event(ctx, topic, e.ID)
			require.NoError(t, err)
			require.Equal(t, e.Payload, stored.Payload)
			require.Equal(t, e.Metadata, stored.Metadata)
			require.Equal(t, "kafka", stored.Source)
		}
	})
}

// requireSame publishes events and compares them with what a handler gets, and
// one of them with what a reader gets.
func requireSame(t require.TestingT, db db, sent []store.Event) {
	inserted, err := db.tryInsert(ctx, db.DB(), sent...)
	require.NoError(t, err)
	require.Len(t, inserted, len(sent))
	claimed, err := db.Claim(ctx, db.claimant("a"), []queue.Want{want(topic, "mail", len(sent))})
	require.NoError(t, err)
	require.Len(t, claimed, len(sent))

	byID := map[string]store.Event{}
	for _, c := range claimed {
		byID[c.Event.ID] = c.Event
	}
	for _, want := range sent {
		got := byID[want.ID]
		require.True(t, bytes.Equal(want.Payload, got.Payload), "sent %.200q, got %.200q", want.Payload, got.Payload)
		require.Equal(t, len(want.Metadata), len(got.Metadata))
		for k, v := range want.Metadata {
			require.Equal(t, v, got.Metadata[k], "metadata %q", k)
		}
	}
	stored, err := db.Event(ctx, topic, sent[0].ID)
	require.NoError(t, err)
	require.True(t, reflect.DeepEqual(byID[sent[0].ID], stored))
}

// text draws what stands in metadata.
var text = rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "\x00", `"`, `\`, `\u0000`, "'; --", "<&>", "\u2028", "é", "\U0010ffff"}))

// payload draws what programs publish: JSON as no encoder of ours would write
// it, what looks like JSON, and anything else.
func payload() *rapid.Generator[[]byte] {
	legible := rapid.OneOf(
		rapid.Custom(func(t *rapid.T) string {
			return space.Draw(t, "before") + value(3).Draw(t, "value") + space.Draw(t, "after")
		}),
		rapid.Custom(func(t *rapid.T) string {
			depth := rapid.SampledFrom([]int{10, 511, 512, 513, 2000, 9999, 10001, 30000}).Draw(t, "depth")
			open, end := `[`, `]`
			if rapid.Bool().Draw(t, "objects") {
				open, end = `{"k":`, `}`
			}
			return strings.Repeat(open, depth) + `0` + strings.Repeat(end, depth)
		}),
		rapid.SampledFrom([]string{
			"", " ", "\x00", "{}\x00", "\"\x00\"", "\"\x1f\"", "\"\x7f\"", "\xff", "\"\xff\"", "\"\xed\xa0\x80\"", "\ufeff{}", "{}\u00a0", "\v1", "\f1",
			"NaN", "Infinity", "{'a':1}", "01", "+1", "1.", ".5", "[1,]", `{"a":1,}`, `"\u12"`, `"\x41"`, `"\'"`, "// c\n1", "{}{}", "nul", "nullnull",
		}),
	)
	return rapid.OneOf(
		rapid.Map(legible, func(s string) []byte { return []byte(s) }),
		rapid.Custom(func(t *rapid.T) []byte { // spoilt by one byte
			b := []byte(value(2).Draw(t, "value"))
			b[rapid.IntRange(0, len(b)-1).Draw(t, "place")] = rapid.Byte().Draw(t, "byte")
			return b
		}),
		rapid.SliceOf(rapid.Byte()),
	)
}

var space = rapid.StringOfN(rapid.SampledFrom([]rune(" \t\r\n")), 0, 3, -1)

// value draws the text of a JSON value.
func value(depth int) *rapid.Generator[string] {
	scalar := rapid.OneOf(
		rapid.SampledFrom([]string{
			`null`, `true`, `false`, `-0`, `0.10`, `1e400`, `1E-999`, `123456789012345678901234567890.5`, `"\u0000"`, `"\ud800"`, `"\udc00\ud800"`,
			`"\ud83d\ude00"`, `"\/"`, `"\b\f\n\r\t\"\\"`, `"\u00e9é"`, `""`, `"😀"`, "\"\x7f\u2028\"",
		}),
		rapid.Map(rapid.String(), quote),
	)
	if depth == 0 {
		return scalar
	}
	return rapid.OneOf(scalar, rapid.Custom(func(t *rapid.T) string {
		object := rapid.Bool().Draw(t, "object")
		parts := make([]string, rapid.IntRange(0, 4).Draw(t, "size"))
		for i := range parts {
			parts[i] = space.Draw(t, "before") + value(depth-1).Draw(t, "value") + space.Draw(t, "after")
			if object { // few keys, so that some stand twice
				key := rapid.SampledFrom([]string{"a", "b", "", "\x00", "é"}).Draw(t, "key")
				parts[i] = space.Draw(t, "gap") + quote(key) + space.Draw(t, "gap") + ":" + parts[i]
			}
		}
		open, end := "[", "]"
		if object {
			open, end = "{", "}"
		}
		if len(parts) == 0 {
			return open + space.Draw(t, "inside") + end
		}
		return open + strings.Join(parts, ",") + end
	}))
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}
