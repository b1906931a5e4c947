package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/decode"
	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

// payload is the part of a payload that was read.
type payload struct {
	read  bool
	bytes []byte // the first bytes
	size  int64  // of the whole payload
}

func (p payload) cut() bool { return int64(len(p.bytes)) < p.size }

// text returns the payload for people.
func (p payload) text() string {
	if !p.cut() {
		return pretty(p.bytes)
	}
	start := p.bytes
	for range utf8.UTFMax - 1 { // a rune may have been cut
		if r, n := utf8.DecodeLastRune(start); r == utf8.RuneError && n == 1 {
			start = start[:len(start)-1]
		}
	}
	if !utf8.Valid(start) {
		return fmt.Sprintf("%s bytes that are not text; -o json has the first ones in base64, with --full all; a command line of the application's own decodes them (package cli)", words.Thousands(p.size))
	}
	return fmt.Sprintf("%s\n… %s of %s bytes; --full shows all", string(start), words.Thousands(int64(len(start))), words.Thousands(p.size))
}

// showing says what is shown only on request.
type showing struct{ payload, stack, full bool }

// The limits of what is shown without --full.
const (
	shownPayload  = 256 << 10 // bytes
	shownAttempts = 100
)

func (s *showing) addPayload(c *cobra.Command) {
	c.Flags().BoolVar(&s.payload, "payload", false, fmt.Sprintf("the event's payload: its first %d KiB", shownPayload>>10))
	c.Flags().BoolVar(&s.full, "full", false, "all of the payload, however large")
}

// read reads as much of a payload as is shown.
func (s showing) read(size int64, piece func(most int) ([]byte, error)) (p payload, err error) {
	if !s.payload && !s.full {
		return p, nil
	}
	most := shownPayload
	if s.full {
		most = 0
	}
	p = payload{read: true, size: size}
	p.bytes, err = piece(most)
	return p, err
}

// decode decodes a payload if it was read completely.
func (a *app) decode(e store.EventHead, p payload) decode.Decoded {
	switch {
	case !p.read || !a.decoder.Ready():
		return decode.Decoded{}
	case p.cut():
		return decode.Decoded{Err: errors.New("it is not read to its end: --full does")}
	case e.MetadataUnread:
		return decode.Decoded{Err: errors.New("its metadata is too large to be read: --full does")}
	}
	return a.decoder.Decode(e.Event, p.bytes)
}

// printPayload prints the part of an event's payload that was read, decoded if
// possible.
func (a *app) printPayload(out io.Writer, e store.EventHead, p payload) {
	if !p.read {
		return
	}
	text, note := p.text(), ""
	switch is := a.decode(e, p); {
	case is.Err != nil:
		note = fmt.Sprintf("(not decoded: %s)\n", words.Line(is.Err.Error()))
	case is.JSON != nil:
		text, note = pretty(is.JSON), fmt.Sprintf("(decoded from %d bytes of %s; -o json has them, too)\n", len(p.bytes), is.Type)
	}
	fmt.Fprintf(out, "\nPAYLOAD\n%s\n%s", text, note)
}

// payloadText returns a payload as a person edits it.
func (a *app) payloadText(e store.Event, payload []byte) string {
	if is := a.decoder.Decode(e, payload); is.Err == nil && is.JSON != nil {
		return pretty(is.JSON)
	}
	return pretty(payload)
}

// wireEvent returns the JSON of an event, with the payload as stored and decoded.
func (a *app) wireEvent(e store.EventHead, p payload) wire.Event {
	event := wire.NewEvent(e)
	if p.read {
		event.SetPayload(p.bytes)
	}
	is := a.decode(e, p)
	if event.Decoded = is.JSON; is.Err != nil {
		event.DecodeError = is.Err.Error()
	}
	return event
}

// pretty returns a payload for people.
func pretty(payload []byte) string {
	if indented, ok := indent(payload); ok {
		return indented
	}
	if utf8.Valid(payload) {
		return string(payload)
	}
	return fmt.Sprintf("%d bytes that are not text; -o json has them in base64, and a command line of the application's own decodes them (package cli)", len(payload))
}

// indent returns a JSON payload indented, for people.
func indent(payload []byte) (string, bool) {
	if !json.Valid(payload) {
		return "", false
	}
	var out strings.Builder
	to := json.NewEncoder(&out)
	to.SetEscapeHTML(false)
	to.SetIndent("", "  ")
	if err := to.Encode(json.RawMessage(payload)); err != nil {
		return "", false
	}
	return strings.TrimSuffix(out.String(), "\n"), true
}
