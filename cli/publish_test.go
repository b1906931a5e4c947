package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/store"
)

func TestPublish(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		r := db.reprise("publish", topic, `{"id":"1"}`, "--key", "ada", "--id", "e1", "--metadata", "a=b=c", "--metadata", "d=e,f").ok()
		require.Equal(t, "e1\n", r.out)
		require.Contains(t, r.errs, "No handler is subscribed to topic user.signed_up")
		e, err := db.Event(t.Context(), topic, "e1")
		require.NoError(t, err)
		require.Equal(t, `{"id":"1"}`, string(e.Payload))
		require.Equal(t, "ada", e.Key)
		require.Equal(t, map[string]string{"a": "b=c", "d": "e,f", store.KeyMetadata: "ada", store.OperationMetadata: "1"}, e.Metadata)

		db.subscribe("mail")
		db.reprise("publish", topic, `{"id":"1"}`, "--id", "e1").ok()
		db.reprise("publish", topic, `{"id":"2"}`, "--id", "e1").fails(exitFailed, "another event of the topic has this id")
		for _, args := range [][]string{{"publish", topic}, {"publish", topic, "-"}} {
			r = db.repriseWith(t.Context(), nil, strings.NewReader("any bytes\n"), args...).ok()
			require.NotContains(t, r.errs, "No handler")
			e, err = db.Event(t.Context(), topic, strings.TrimSpace(r.out))
			require.NoError(t, err)
			require.Equal(t, "any bytes\n", string(e.Payload))
		}
		require.Equal(t, "2\n", db.reprise("runs", "count", "--handler", "mail", "--status", "PENDING").ok().out)

		var published wire.Published
		db.reprise("publish", topic, "{}", "-o", "json").ok().json(&published)
		require.Len(t, published.IDs, 1)
		for want, args := range map[string][]string{
			"accepts between 1 and 2 arg(s)": {},
			"want KEY=VALUE":                 {topic, "{}", "--metadata", "key"},
			"want at most 255":               {topic, "{}", "--key", strings.Repeat("k", 256)},
			"--key-from and --id-from want":  {topic, "{}", "--key-from", "id"},
			"a payload and --lines":          {topic, "{}", "--lines"},
			"--key or --id with --lines":     {topic, "--lines", "--id", "1"},
			"a name in the path is empty":    {topic, "--lines", "--id-from", "a..b"},
			"want one of them":               {topic, "{}", "--keys", "1", "--keys-from", "x"},
			"--lines or --key with --keys":   {topic, "{}", "--keys", "1", "--key", "x"},
			"want {key} in it":               {topic, "{}", "--keys", "1", "--id", "x"},
			"--keys-from - reads the keys":   {topic, "--keys-from", "-"},
			"it says which operation":        {topic, "{}", "--metadata", "operation_id=7"},
		} {
			db.reprise(append([]string{"publish"}, args...)...).fails(exitUsage, want)
		}
		db.reprise("publish", "no\ttopic", "{}").fails(exitUsage, "topic")
	})
}

func TestPublishLines(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		var lines strings.Builder
		for i := range 2500 {
			fmt.Fprintf(&lines, "{\"id\":%d, \"user\":{\"name\":\"user-%d\"}}\n\n", i, i%7)
		}
		publish := func(ctx context.Context, from io.Reader) result {
			return db.repriseWith(ctx, nil, from, "publish", topic, "--lines", "--id-from", "id", "--key-from", "user.name", "--metadata", "source=import")
		}
		for range 2 {
			require.Equal(t, "2,500 events published\n", publish(t.Context(), strings.NewReader(lines.String())).ok().out)
			require.Equal(t, "2500\n", db.reprise("runs", "count").ok().out, "publishing them again does nothing")
		}
		e, err := db.Event(t.Context(), topic, "8")
		require.NoError(t, err)
		require.Equal(t, `{"id":8, "user":{"name":"user-1"}}`, string(e.Payload))
		require.Equal(t, "user-1", e.Key)
		require.Equal(t, "import", e.Metadata["source"])

		for bad, why := range map[string]string{
			"{": "line 3: it is not JSON", `{"user":{"name":"x"}}`: "line 3: --id-from: there is nothing at id", `{"id":1,"user":[]}`: "line 3: --key-from: there is nothing at user.name",
			`{"id":true,"user":{"name":"x"}}`: "neither a string nor a number",
		} {
			from := strings.NewReader("{\"id\":\"a\",\"user\":{\"name\":\"x\"}}\n{\"id\":\"b\",\"user\":{\"name\":\"x\"}}\n" + bad + "\n{}")
			publish(t.Context(), from).fails(exitFailed, why).fails(exitFailed, "2 events published: the lines up to 2.")
		}
		require.Equal(t, "2502\n", db.reprise("runs", "count").ok().out)

		ctx, interrupt := context.WithCancel(t.Context())
		out, in := io.Pipe()
		go func() {
			_, _ = io.WriteString(in, `{"id":"c","user":{"name":"x"}}`+"\n")
			interrupt() // while it waits for more
		}()
		publish(ctx, out).fails(exitInterrupted, "0 events published: the lines up to 0.")
	})
}

func TestPublishingByHandIsOnRecord(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		r := db.reprise("publish", topic, "{}", "--by", "maria", "--reason", "it was lost").ok()
		require.Equal(t, "On record as operation 1.\n", r.errs)
		e, err := db.Event(t.Context(), topic, strings.TrimSpace(r.out))
		require.NoError(t, err)
		require.Equal(t, "1", e.Metadata[store.OperationMetadata])
		o, err := db.Operation(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, []any{store.Publishing, "maria", "it was lost", topic, int64(1), true}, []any{o.Kind, o.RequestedBy, o.Reason, o.Selection.Topic, o.Taken, o.Complete})

		var published wire.Published
		lines := strings.NewReader(strings.Repeat("{}\n", 1500))
		db.repriseWith(t.Context(), nil, lines, "publish", topic, "--lines", "-o", "json").ok().json(&published)
		require.Equal(t, wire.Published{Published: 1500, Operation: 2}, published)
		db.repriseWith(t.Context(), nil, strings.NewReader("{}\n{"), "publish", topic, "--lines").fails(exitFailed, "line 2").fails(exitFailed, "On record as operation 3.")
		o, err = db.Operation(t.Context(), 3)
		require.NoError(t, err)
		require.EqualValues(t, 1, o.Taken)
		require.False(t, o.Complete)
		require.Contains(t, db.reprise("replays", "show", "3", "--wait").ok().out, "incomplete", "and nobody waits for ever")
		db.repriseWith(t.Context(), nil, strings.NewReader("\n"), "publish", topic, "--lines").ok()
		_, err = db.Operation(t.Context(), 4)
		require.ErrorIs(t, err, store.ErrNotFound, "where nothing is published, there is nothing to record")
	})
}

func TestPublishForEachKey(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		for range 2 {
			r := db.reprise("publish", topic, `{"order":{"id":"{key}","number":{key}}}`, "--keys", "17, 18,17", "--keys", "19", "--id", "resend-{key}", "--metadata", "a=b").ok()
			require.Equal(t, "3 events published\n", r.out)
			require.Equal(t, "3\n", db.reprise("runs", "count").ok().out, "doing it again writes nothing twice")
		}
		e, err := db.Event(t.Context(), topic, "resend-18")
		require.NoError(t, err)
		require.Equal(t, `{"order":{"id":"18","number":18}}`, string(e.Payload))
		require.Equal(t, "18", e.Key)
		require.Equal(t, map[string]string{"a": "b", store.KeyMetadata: "18", store.OperationMetadata: "1"}, e.Metadata)
		o, err := db.Operation(t.Context(), 1)
		require.NoError(t, err)
		require.EqualValues(t, 3, o.Taken)

		file := t.TempDir() + "/keys.txt"
		require.NoError(t, os.WriteFile(file, []byte("a \"quoted\" \\ key\r\n\n  b\n"), 0o600))
		for _, args := range [][]string{{`{"id":"{key}"}`, "--keys-from", file}, {"--keys-from", file}, {`{"id":"{key}"}`, "--keys-from", "-"}} {
			stdin := `{"id":"{key}"}`
			if args[len(args)-1] == "-" {
				stdin = "a \"quoted\" \\ key\nb"
			}
			var published wire.Published
			db.repriseWith(t.Context(), nil, strings.NewReader(stdin), append([]string{"publish", topic, "-o", "json"}, args...)...).ok().json(&published)
			require.EqualValues(t, 2, published.Published)
			e, err = db.Event(t.Context(), topic, published.IDs[0])
			require.NoError(t, err)
			require.Equal(t, `a "quoted" \ key`, e.Key)
			var payload struct{ ID string }
			require.NoError(t, json.Unmarshal(e.Payload, &payload))
			require.Equal(t, e.Key, payload.ID)
		}

		runs := db.reprise("runs", "count").ok().out
		for why, args := range map[string][]string{
			`key "x": {key} stands outside of a string, where it must be a number`: {`{"id":{key}}`, "--keys", "1,x"},
			"nothing was published":               {`{"id":{key}}`, "--keys", "1,x"},
			`key "1": the payload is not JSON`:    {`{"id":{key}`, "--keys", "1"},
			"want at most 255":                    {`{}`, "--keys", "1," + strings.Repeat("k", 256)},
			"no such file":                        {`{}`, "--keys-from", file + ".gone"},
			"another event of the topic has this": {`{"other":"{key}"}`, "--keys", "17", "--id", "resend-{key}"},
			"0 events published.":                 {`{"other":"{key}"}`, "--keys", "17", "--id", "resend-{key}"},
		} {
			db.reprise(append([]string{"publish", topic}, args...)...).fails(exitFailed, why)
		}
		db.reprise("publish", topic, "{}", "--keys", ",").fails(exitNothing, "there are no keys")
		require.Equal(t, runs, db.reprise("runs", "count").ok().out)
	})
}

func TestAKeyInATemplateStaysAKey(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"17", "a", `"`, `\`, `\"`, `","admin":"`, "<ä&\u2028>", "{key}", "-1.5e3"} {
		filled, err := fill([]byte(`{"id":"{key}","\"{key}\\":["x{key}y","\\\"{key}"]}`), key)
		require.NoError(t, err, key)
		var got map[string]any
		require.NoError(t, json.Unmarshal(filled, &got))
		require.Equal(t, map[string]any{"id": key, `"` + key + `\`: []any{"x" + key + "y", `\"` + key}}, got)
	}
	for _, number := range []string{"0", "17", "-1.5e3"} {
		filled, err := fill([]byte(`[{key}]`), number)
		require.NoError(t, err)
		require.Equal(t, "["+number+"]", string(filled))
	}
	for _, other := range []string{"a", "null", "017", "1,2", `"1"`, "[1]", "-", "1 2"} {
		_, err := fill([]byte(`[{key}]`), other)
		require.ErrorContains(t, err, "it must be a number", other)
	}
	for _, template := range []string{"", "key", `"\`, `{"id":"{key}"`} {
		_, err := fill([]byte(template), "1")
		require.ErrorContains(t, err, "not JSON", template)
	}
}

func TestTheApplicationDecidesWhatIsPublishedByHand(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.reprise("publish", "anything", "{}").ok()
		require.NoError(t, db.DeclareTopics(t.Context(), []store.Topic{{Topic: store.AllTopics}}))
		db.reprise("publish", "anything", "{}").ok()

		require.NoError(t, db.DeclareTopics(t.Context(), []store.Topic{{Topic: "orders"}}))
		db.reprise("publish", "orders", "{}").fails(exitUsage, `topic "orders" is not for publishing by hand; the application allows: none. To allow it, set Manual of bus.Config.Topics["orders"]`)
		require.NoError(t, db.DeclareTopics(t.Context(), []store.Topic{{Topic: "orders", Manual: true}, {Topic: "resend", Manual: true}, {Topic: "invoices"}}))
		db.reprise("publish", "orders", "{}").ok()
		for _, topic := range []string{"invoices", "anything"} {
			db.reprise("publish", topic, "{}").fails(exitUsage, "the application allows: orders, resend.")
		}
		require.NoError(t, db.DeclareTopics(t.Context(), []store.Topic{{Topic: store.AllTopics, Manual: true}}))
		db.reprise("publish", "anything", "{}").ok()
		db.reprise("publish", "invoices", "{}").fails(exitUsage, "is not for publishing by hand")
	})
}

func TestWhatABrokerCarriesIsPublishedByTheOutbox(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		require.NoError(t, db.DeclareTopics(t.Context(), []store.Topic{
			{Topic: store.AllTopics, Transport: "kafka", Mode: "direct", Manual: true},
			{Topic: "checked", Transport: "kafka", Mode: "hold", Manual: true},
			{Topic: topic, Transport: "kafka", Mode: "database", Manual: true},
			{Topic: "own", Manual: true},
		}))
		for topic, state := range map[string]store.OutgoingState{"any": store.OutgoingPending, "checked": store.OutgoingHeld, topic: "", "own": ""} {
			var published wire.Published
			args := []string{"publish", topic, `{"id":"{key}"}`, "--keys", "1,2", "--id", "resend-{key}", "-o", "json"}
			r := db.reprise(args...).ok()
			r.json(&published)
			require.Equal(t, state, published.Outbox)
			require.EqualValues(t, 2, published.Published)
			db.reprise(args...).ok()
			written, err := db.Outbox(t.Context(), store.OutboxFilter{Topic: topic})
			require.NoError(t, err)
			_, inDatabase := db.Event(t.Context(), topic, "resend-1")
			if state == "" {
				require.Empty(t, written)
				require.NoError(t, inDatabase)
				continue
			}
			require.NotContains(t, r.errs, "No handler", "others may listen")
			require.ErrorIs(t, inDatabase, store.ErrNotFound)
			require.Len(t, written, 2, "publishing it again does nothing")
			require.Equal(t, state, written[0].State)
			payload, err := db.OutgoingPayload(t.Context(), written[0].ID, 0)
			require.NoError(t, err)
			require.Equal(t, `{"id":"2"}`, string(payload))
			require.Equal(t, "2", written[0].Event.Key)
			whole, err := db.Outgoing(t.Context(), written[0].ID)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(published.Operation), whole.Event.Metadata[store.OperationMetadata])
		}
		require.Contains(t, db.reprise("publish", "any", "{}").ok().errs, "Nobody sends at this moment")
		require.Contains(t, db.reprise("publish", "checked", "{}").ok().errs, "reprise outbox release --topic checked")
		db.reprise("publish", "no\ttopic", "{}").fails(exitUsage, "without control characters")
		db.reprise("publish", "any", "[]", "--id", "resend-1").fails(exitFailed, "another event of the topic has this id")
		require.Equal(t, "2\n", db.reprise("runs", "count").ok().out)
		lines := strings.NewReader("{\"id\":1}\n{\"id\":1}\n{\"id\":2}\n")
		require.Equal(t, "3 events published\n", db.repriseWith(t.Context(), nil, lines, "publish", "lines", "--lines", "--id-from", "id").ok().out)
	})
}
