package cli

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

// eventJSON is an event in JSON.
type eventJSON struct {
	ID          string            `json:"id"`
	Topic       string            `json:"topic"`
	Key         string            `json:"key"`
	Metadata    map[string]string `json:"metadata"`
	Source      string            `json:"source"`
	Amends      string            `json:"amends"`
	PublishedAt *time.Time        `json:"published_at"`
	Bytes       int64             `json:"payload_bytes"`
	Payload     json.RawMessage   `json:"payload,omitempty"`        // by its value, if it is JSON
	Base64      []byte            `json:"payload_base64,omitempty"` // if it is not JSON, or not UTF-8
	Start       []byte            `json:"payload_start,omitempty"`  // the first bytes, in base64, of a payload that is larger than what is shown
	Decoded     json.RawMessage   `json:"payload_decoded,omitempty"`
	DecodeError string            `json:"payload_decode_error,omitempty"`
}

func newEventJSON(e store.EventHead, p payload) eventJSON {
	data := eventJSON{ID: e.ID, Topic: e.Topic, Key: e.Key, Metadata: e.Metadata, Source: e.Source, Amends: e.Amends, PublishedAt: utc(e.PublishedAt), Bytes: e.Bytes}
	if data.Metadata == nil {
		data.Metadata = map[string]string{}
	}
	switch {
	case !p.read:
	case p.cut():
		data.Start = p.bytes
	case json.Valid(p.bytes) && utf8.Valid(p.bytes):
		data.Payload = p.bytes
	default:
		data.Base64 = p.bytes
	}
	return data
}

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
