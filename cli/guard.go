package cli

import (
	"bytes"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/internal/visible"
)

// guard is the only way to standard output and standard error. Recorded text may
// contain sequences that control a terminal or disguise what it shows. Therefore a
// guard writes \u001b and the like for each hidden character. Only draw writes hidden
// characters.
type guard struct {
	to   io.Writer
	json func() bool // whether the text is JSON; nil: it is not

	mu   sync.Mutex
	rest []byte // an incomplete character at the end of the last Write
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

// draw writes text of the command line itself unchanged, such as colours. Hidden
// characters of other text in it must be escaped already.
func (s *guard) draw(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := io.WriteString(s.to, text)
	return err
}

// close writes the rest of an incomplete character.
func (s *guard) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := s.rest
	s.rest = nil
	return s.put(rest)
}

// unfinished returns how many bytes at the end of a text are an incomplete character.
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

// page returns a guard in memory, to be drawn when it is complete.
func page() (*guard, *bytes.Buffer) {
	var text bytes.Buffer
	return &guard{to: &text}, &text
}

// draw writes text unchanged, to a guard or to any other writer.
func draw(out io.Writer, text string) {
	if s, ok := out.(*guard); ok {
		_ = s.draw(text) // in memory it cannot fail
		return
	}
	_, _ = io.WriteString(out, text)
}
