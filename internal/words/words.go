// Package words writes numbers, durations and lists for people to read.
package words

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/internal/visible"
	"github.com/reprise-bus/reprise/store"
)

// mostListed is how many of several things Few names.
const mostListed = 5

// Thousands returns a number with commas between the thousands.
func Thousands(n int64) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Few names the first of several things, and the number of the others.
func Few(things []string) string {
	if len(things) <= mostListed+1 {
		return strings.Join(things, ", ")
	}
	return strings.Join(things[:mostListed], ", ") + " and " + Thousands(int64(len(things)-mostListed)) + " more"
}

// Several returns a number of things: 1 run, 2 runs.
func Several(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return Thousands(n) + " " + thing + "s"
}

// Counted returns a count of things: 1 run, 1,000,000+ runs.
func Counted(c store.Count, thing string) string {
	if c.More {
		return Thousands(c.N) + "+ " + thing + "s"
	}
	return Several(c.N, thing)
}

// Line returns a text in one line, with single spaces, and hidden characters escaped.
func Line(text string) string {
	return strings.Join(strings.Fields(visible.Text(strings.ReplaceAll(text, "\r\n", "\n"))), " ")
}

// Quoted returns a word as a shell accepts it. Hidden characters are escaped in a form
// for bash and zsh.
func Quoted(word string) string {
	if visible.Line(word) != word {
		var ansi strings.Builder
		for i := 0; i < len(word); {
			r, size := utf8.DecodeRuneInString(word[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				fmt.Fprintf(&ansi, `\x%02x`, word[i])
			case visible.Hidden(r):
				fmt.Fprintf(&ansi, `\U%08x`, r)
			case r == '\'' || r == '\\':
				ansi.WriteString(`\` + string(r))
			default:
				ansi.WriteString(word[i : i+size])
			}
			i += size
		}
		return "$'" + ansi.String() + "'"
	}
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@+=,") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Ago returns a duration in its largest unit and, while that matters, the next smaller
// one.
func Ago(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 10*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// Cut cuts a line to at most limit characters, not counting colours. 0 means no limit.
func Cut(text string, limit int) string {
	if limit == 0 {
		return text
	}
	shown, end, inEscape, escaped := 0, len(text), false, false
	for i, r := range text {
		switch {
		case r == '\x1b':
			inEscape, escaped = true, true
		case inEscape:
			inEscape = r != 'm'
		default:
			if shown == limit-1 {
				end = i
			}
			shown++
		}
	}
	switch {
	case shown <= limit:
		return text
	case escaped:
		return text[:end] + "…" + "\x1b[0m"
	}
	return text[:end] + "…"
}

// ByTopic returns topics with their numbers of messages, the first few by name.
func ByTopic(counts []store.OutboxCount) string {
	counts = slices.Clone(counts)
	slices.SortStableFunc(counts, func(a, b store.OutboxCount) int { return strings.Compare(a.Topic, b.Topic) })
	var topics []string
	for len(counts) > 0 {
		topic, n := counts[0].Topic, int64(0)
		for len(counts) > 0 && counts[0].Topic == topic {
			n += counts[0].N
			counts = counts[1:]
		}
		topics = append(topics, fmt.Sprintf("%s (%s)", topic, Thousands(n)))
	}
	return Few(topics)
}
