package sqldb

import (
	"database/sql"
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
		var texts, bytes, none Array
		texts.Grow(3, len(a)+len(b)+len(c))
		for _, s := range []string{a, b, c} {
			texts.Add(s)
			bytes.AddBytes([]byte(s))
		}
		texts.Null()
		for _, array := range []*Array{&texts, &bytes, &none} {
			array.Close()
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

func mustValue(t *testing.T, a *Array) any {
	t.Helper()
	value, err := a.Value()
	require.NoError(t, err)
	again, err := a.Value() // database/sql may send it twice
	require.NoError(t, err)
	require.Equal(t, value, again)
	return value
}
