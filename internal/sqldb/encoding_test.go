package sqldb

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

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
