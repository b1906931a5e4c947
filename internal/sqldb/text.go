package sqldb

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth is the nesting depth up to which a payload is stored as JSON. PostgreSQL
// parses JSON recursively. The default of max_stack_depth allows several thousand
// levels.
const maxJSONDepth = 512

// IsJSON reports whether PostgreSQL's json type accepts the payload. The type keeps the
// text, including spacing and duplicate keys. A payload that it refuses, or may refuse,
// is stored as bytes.
func IsJSON(payload []byte) bool {
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

// Keepable reports whether every database can store all of these texts. Nothing can
// have a name that is not Keepable, so callers do not ask for it: PostgreSQL would
// fail.
func Keepable(texts ...string) bool {
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return false
		}
	}
	return true
}

// Printable converts a text to one that every database can store: valid UTF-8 without
// NUL, at most limit bytes.
func Printable(s string, limit int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= limit {
		return s
	}
	const cut = "… (cut)"
	return strings.ToValidUTF8(s[:limit-len(cut)], "") + cut
}

// The size limits of texts, in bytes.
const (
	MaxName    = 255     // of a topic, a handler name, an event id or a key: longer ones are refused
	MaxMessage = 8 << 10 // of an error's message, a reason or a description
)

// ValidName checks an identifier, which people read in tables and type on command
// lines.
func ValidName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is empty", what)
	case len(name) > MaxName:
		return fmt.Errorf("%s %.20q… has %d bytes: want at most %d", what, name, len(name), MaxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, isControl):
		return fmt.Errorf("%s %q: want valid UTF-8 without control characters", what, name)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
