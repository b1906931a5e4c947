// Package visible decides which characters are printed unchanged, and how the others
// are written.
package visible

import (
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Hidden reports whether a character is not printed unchanged: a control, format or
// private character (ESC, DEL, C1, bidirectional overrides, zero-width joiners), a line
// or paragraph separator, or any other invisible character. Line feed and tab are
// hidden, too.
func Hidden(r rune) bool {
	if r < utf8.RuneSelf {
		return r < ' ' || r == 0x7f
	}
	return !unicode.IsGraphic(r) || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Text writes a hidden character as \u001b, like JSON, and a byte that is not UTF-8 as
// \xff. Line feeds and tabs stay.
func Text(text string) string { return replace(text, false, false) }

// Line is Text, and also writes line feeds and tabs as \u000a and \u0009.
func Line(text string) string { return replace(text, false, true) }

// JSON writes the hidden characters of valid JSON as \u escapes. The result decodes to
// the same value. A byte that is not UTF-8 becomes \ufffd, to which it decodes.
func JSON(text string) string { return replace(text, true, false) }

// replace writes an invalid byte as \ufffd for JSON, and as \xff otherwise. With
// inLine, it also hides line feeds and tabs.
func replace(text string, forJSON, inLine bool) string {
	first := strings.IndexFunc(text, func(r rune) bool { return r == utf8.RuneError || Hidden(r) && (inLine || r != '\n' && r != '\t') })
	if first < 0 {
		return text
	}
	var out strings.Builder
	out.Grow(len(text) + 16)
	out.WriteString(text[:first])
	for i := first; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1 && forJSON:
			escape(&out, r)
		case r == utf8.RuneError && size == 1:
			out.WriteString(`\x`)
			hex(&out, rune(text[i]), 2)
		case !Hidden(r) || !inLine && (r == '\n' || r == '\t'):
			out.WriteString(text[i : i+size])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escape(&out, high)
			escape(&out, low)
		default:
			escape(&out, r)
		}
		i += size
	}
	return out.String()
}

func escape(out *strings.Builder, r rune) {
	out.WriteString(`\u`)
	hex(out, r, 4)
}

func hex(out *strings.Builder, r rune, digits int) {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		out.WriteByte("0123456789abcdef"[r>>shift&0xf])
	}
}
