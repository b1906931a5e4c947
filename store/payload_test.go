package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
)

func TestIsJSON(t *testing.T) {
	t.Parallel()
	for _, payload := range jsonPayloads {
		require.True(t, isJSON([]byte(payload)), "%.100q", payload)
	}
	for _, payload := range otherPayloads {
		require.False(t, isJSON([]byte(payload)), "%.100q", payload)
	}
}

var jsonPayloads = []string{
	`{}`, ` [ 1 ,2 ] `, "\t\r\n7\n", `{"a":1, "a":2}`, `123456789012345678901234567890`, `1e400`, `-0`, `""`, `"\u0000"`, `"\ud800"`, `"é😀"`, "\"\x7f\"",
	nested(maxJSONDepth), `{"text": "` + nested(maxJSONDepth+1) + `"}`, `[` + strings.Repeat(`{},`, 2*maxJSONDepth) + `1]`,
}

var otherPayloads = []string{
	``, ` `, `plain`, `{`, `{}{}`, `01`, `NaN`, `'a'`, `[1,]`, "\x00", "{}\x00", "\"\x00\"", "\"\n\"", "\xff", "\"\xff\"", "\"\xed\xa0\x80\"", "\ufeff{}",
	nested(maxJSONDepth + 1), nested(20_000),
}

func nested(depth int) string { return strings.Repeat(`[`, depth) + strings.Repeat(`]`, depth) }

func TestDeeper(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		valid string
		depth int
	}{
		{`1`, 0},
		{`[]`, 1},
		{`[[],[],[]]`, 2},
		{`{"a":{"b":[1]},"c":[[]]}`, 3},
		{`["[[[[",{}]`, 2},
		{`["\"[[[[",{}]`, 2},
		{`["\\",[["\\\""]]]`, 3},
		{`{"[":{"{":"]}"}}`, 2},
	} {
		require.False(t, deeper([]byte(c.valid), c.depth), c.valid)
		if c.depth > 0 {
			require.True(t, deeper([]byte(c.valid), c.depth-1), c.valid)
		}
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 20, ""},
		{"as it is: é😀\t\n", 20, "as it is: é😀\t\n"},
		{"a\x00b\xffc\xc3", 20, "a\ufffdb\ufffdc\ufffd"},
		{"exactly 12 b", 12, "exactly 12 b"},
		{"more than 12 b", 12, "mor… (cut)"},
		{"ééééééééé", 12, "é… (cut)"},
		{strings.Repeat("\x00", 7), 20, strings.Repeat("\ufffd", 3) + "… (cut)"},
	} {
		require.Equal(t, c.want, printable(c.in, c.limit), "%q", c.in)
	}
}

func FuzzPrintable(f *testing.F) {
	for _, s := range append(jsonPayloads, otherPayloads...) {
		f.Add(s, 20)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = 16 + int(uint(limit)%(1<<20))
		p := printable(s, limit)
		require.LessOrEqual(t, len(p), limit)
		require.True(t, utf8.ValidString(p))
		require.NotContains(t, p, "\x00")
		require.Equal(t, p, printable(p, limit))
		if len(s) <= limit && utf8.ValidString(s) && !strings.Contains(s, "\x00") {
			require.Equal(t, s, p)
		}
	})
}

// FuzzPayload publishes into SQLite, which has its own opinion of what is JSON.
// What PostgreSQL takes is a promise of package storetest.
func FuzzPayload(f *testing.F) {
	for _, payload := range append(jsonPayloads, otherPayloads...) {
		f.Add([]byte(payload))
	}
	db := testdb.Open(f, testdb.SQLite(f))
	require.NoError(f, migrations.Up(f.Context(), db, ""))
	st, err := New(f.Context(), db, "")
	require.NoError(f, err)
	var published atomic.Int64
	f.Fuzz(func(t *testing.T, payload []byte) {
		e := Event{ID: fmt.Sprint(published.Add(1)), Topic: "orders", Payload: payload}
		_, err := st.Insert(t.Context(), st.DB(), []Event{e}, LeaseOnInsert{})
		require.NoError(t, err)
		stored, err := st.Event(t.Context(), e.Topic, e.ID)
		require.NoError(t, err)
		require.Equal(t, string(payload), string(stored.Payload))

		var text, valid bool
		require.NoError(t, db.QueryRowContext(t.Context(), `
			SELECT payload IS NOT NULL, coalesce(json_valid(payload), false) FROM reprise_events WHERE id = $1`, e.ID).Scan(&text, &valid))
		require.Equal(t, isJSON(payload), text)
		require.Equal(t, text, valid, "what is stored as text is JSON")
	})
}

// FuzzMetadata holds that what is written of metadata reads as it was.
func FuzzMetadata(f *testing.F) {
	f.Add("a", "b", "c", "d")
	f.Add("", "", `"`, `\`)
	f.Add("\x7f", "\u2028<>&", "é", "\n")
	f.Fuzz(func(t *testing.T, k, v, k2, v2 string) {
		metadata := map[string]string{}
		for _, s := range [][2]string{{k, v}, {k2, v2}} {
			metadata[strings.ToValidUTF8(s[0], "")] = strings.ToValidUTF8(s[1], "")
		}
		var read map[string]string
		require.NoError(t, json.Unmarshal([]byte(metadataText(metadata)), &read))
		require.Equal(t, metadata, read)
	})
}
