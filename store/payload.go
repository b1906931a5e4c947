package store

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth is the nesting up to which a payload is stored as JSON.
// PostgreSQL parses it recursively, bounded by max_stack_depth, whose default
// is good for several thousand levels.
const maxJSONDepth = 512

// isJSON says whether PostgreSQL's json type takes the payload, which then
// keeps its text, spacing and duplicate keys included. What it refuses, or
// might, is stored as bytes.
func isJSON(payload []byte) bool {
	return utf8.Valid(payload) && json.Valid(payload) && !deeper(payload, maxJSONDepth)
}

func deeper(valid []byte, limit int) bool {
	if bytes.Count(valid, []byte{'['})+bytes.Count(valid, []byte{'{'}) <= limit {
		return false
	}
	depth, quoted := 0, false
	for i := 0; i < len(valid); i++ {
		switch c := valid[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > limit {
				return true
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return false
}

// keepable says whether any database could have all of these texts. What has a name
// that is not keepable is not there, and is not asked for: PostgreSQL would fail.
func keepable(texts ...string) bool {
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return false
		}
	}
	return true
}

// printable makes a text that any database stores: valid UTF-8 without NUL,
// no longer than limit bytes.
func printable(s string, limit int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= limit {
		return s
	}
	const cut = "… (cut)"
	return strings.ToValidUTF8(s[:limit-len(cut)], "") + cut
}
