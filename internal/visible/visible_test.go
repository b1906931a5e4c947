package visible

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestWhatIsWrittenInstead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "",
		"Grüße, 東京 👍 e\u0301 हिन्दी \ufffd": "Grüße, 東京 👍 e\u0301 हिन्दी \ufffd",
		"a\tb\nc":                    "a\tb\nc",
		"\x00\r\x1b[2J\x7f":          `\u0000\u000d\u001b[2J\u007f`,
		"\u0085\u009b2J":             `\u0085\u009b2J`,
		"\u202e\u2066\u200e\u061c":   `\u202e\u2066\u200e\u061c`,
		"\u200b\u200d\ufeff\u2060":   `\u200b\u200d\ufeff\u2060`,
		"\u2028\u2029":               `\u2028\u2029`,
		"\u00ad\u034f\u3164\ufe0f":   `\u00ad\u034f\u3164\ufe0f`,
		"\U000e0041\U000e0100\ue000": `\udb40\udc41\udb40\udd00\ue000`,
		"\xff\xc3(\xed\xa0\x80":      `\xff\xc3(\xed\xa0\x80`,
	} {
		require.Equal(t, want, Text(text))
	}
	require.Equal(t, `a\u0009b\u000ac`, Line("a\tb\nc"))
}

// What is printed as JSON has no hidden character, and decodes to the same text.
func FuzzJSON(f *testing.F) {
	for _, text := range []string{"", "\u202e\x1b", "\xff\x7f", "\U000e0041", "\"\\"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		encoded := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(text) + `"`
		shown := JSON(encoded)
		require.NotContains(t, strings.Map(func(r rune) rune {
			if Hidden(r) {
				return '!'
			}
			return -1
		}, shown), "!")
		var back string
		require.NoError(t, json.Unmarshal([]byte(shown), &back))
		require.Equal(t, string([]rune(text)), back)
		require.True(t, utf8.ValidString(shown))
	})
}
