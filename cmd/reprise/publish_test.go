package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

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
		require.Equal(t, map[string]string{"a": "b=c", "d": "e,f", store.KeyMetadata: "ada"}, e.Metadata)

		db.subscribe("mail")
		db.reprise("publish", topic, `{"id":"1"}`, "--id", "e1").ok()
		db.reprise("publish", topic, `{"id":"2"}`, "--id", "e1").fails(exitFailed, "another event of the topic has this id")
		for _, args := range [][]string{{"publish", topic}, {"publish", topic, "-"}} {
			r = db.repriseWith(t.Context(), nil, strings.NewReader("any bytes\n"), args...).ok()
			require.Empty(t, r.errs)
			e, err = db.Event(t.Context(), topic, strings.TrimSpace(r.out))
			require.NoError(t, err)
			require.Equal(t, "any bytes\n", string(e.Payload))
		}
		require.Equal(t, "2\n", db.reprise("runs", "count", "--handler", "mail", "--status", "PENDING").ok().out)

		var published publishedJSON
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
		} {
			db.reprise(append([]string{"publish"}, args...)...).fails(exitUsage, want)
		}
		db.reprise("publish", "no topic", "{}").fails(exitFailed, "topic")
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
