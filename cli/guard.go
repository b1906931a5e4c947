package cli

import (
	"bytes"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/internal/visible"
)

// guard is the one way to standard output and standard error. What is on record
// may be meant to control a terminal, or to show something else than it is, so
// that a screen writes \u001b instead of each hidden character, whatever the
// command does. Only draw writes them.
type guard struct {
	to   io.Writer
	json func() bool // whether what is written is JSON; nil: it is not

	mu   sync.Mutex
	rest []byte // the beginning of a character, at the end of the last Write
}

// Write implements io.Writer.
func (s *guard) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := append(s.rest, p...)
	whole := len(text) - unfinished(text)
	s.rest = bytes.Clone(text[whole:])
	if err := s.put(text[:whole]); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *guard) put(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	shown := visible.Text
	if s.json != nil && s.json() {
		shown = visible.JSON
	}
	_, err := io.WriteString(s.to, shown(string(text)))
	return err
}

// draw writes what the command line itself makes of a text, such as colours. All
// else in it has been through line or printable.
func (s *guard) draw(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := io.WriteString(s.to, text)
	return err
}

// close writes what is left of a character that never was finished.
func (s *guard) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := s.rest
	s.rest = nil
	return s.put(rest)
}

// unfinished is how many bytes at the end of a text begin a character.
func unfinished(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if tail := text[len(text)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// page is a guard in memory, which is drawn when all is on it.
func page() (*guard, *bytes.Buffer) {
	var text bytes.Buffer
	return &guard{to: &text}, &text
}

// draw writes to a guard as it is, and to anything else.
func draw(out io.Writer, text string) {
	if s, ok := out.(*guard); ok {
		_ = s.draw(text) // into memory, which takes it
		return
	}
	_, _ = io.WriteString(out, text)
}
