package store

import (
	"database/sql"
	"encoding/json"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"
)

// FuzzArray holds that PostgreSQL's arrays say what went into them, by lib/pq's
// reading of them.
func FuzzArray(f *testing.F) {
	f.Add("", `"`, `\`)
	f.Add("{a,b}", "NULL", " \n")
	f.Add(`\"`, "é", `\\\`)
	f.Fuzz(func(t *testing.T, a, b, c string) {
		var texts, bytes, none array
		texts.grow(3, len(a)+len(b)+len(c))
		for _, s := range []string{a, b, c} {
			texts.add(s)
			bytes.addBytes([]byte(s))
		}
		texts.null()
		for _, array := range []*array{&texts, &bytes, &none} {
			array.close()
		}
		var read []sql.NullString
		require.NoError(t, pq.Array(&read).Scan(mustValue(t, &texts)))
		require.Equal(t, []sql.NullString{{String: a, Valid: true}, {String: b, Valid: true}, {String: c, Valid: true}, {}}, read)
		var raw pq.ByteaArray
		require.NoError(t, raw.Scan(mustValue(t, &bytes)))
		require.Equal(t, pq.ByteaArray{[]byte(a), []byte(b), []byte(c)}, raw)
		require.Equal(t, "{}", mustValue(t, &none))
	})
}

func mustValue(t *testing.T, a *array) any {
	t.Helper()
	value, err := a.Value()
	require.NoError(t, err)
	again, err := a.Value() // database/sql may send it twice
	require.NoError(t, err)
	require.Equal(t, value, again)
	return value
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
