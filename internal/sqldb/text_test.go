package sqldb

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestIsJSON(t *testing.T) {
	t.Parallel()
	for _, payload := range jsonPayloads {
		require.True(t, IsJSON([]byte(payload)), "%.100q", payload)
	}
	for _, payload := range otherPayloads {
		require.False(t, IsJSON([]byte(payload)), "%.100q", payload)
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
		require.Equal(t, c.want, Printable(c.in, c.limit), "%q", c.in)
	}
}

func FuzzPrintable(f *testing.F) {
	for _, s := range append(jsonPayloads, otherPayloads...) {
		f.Add(s, 20)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = 16 + int(uint(limit)%(1<<20))
		p := Printable(s, limit)
		require.LessOrEqual(t, len(p), limit)
		require.True(t, utf8.ValidString(p))
		require.NotContains(t, p, "\x00")
		require.Equal(t, p, Printable(p, limit))
		if len(s) <= limit && utf8.ValidString(s) && !strings.Contains(s, "\x00") {
			require.Equal(t, s, p)
		}
	})
}
