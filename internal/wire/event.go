package wire

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/store"
)

// Event is an event. Of the payload's forms, at most one is set.
type Event struct {
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
	Start       []byte            `json:"payload_start,omitempty"`  // the first bytes, in base64, of a payload that is larger than what was read
	Decoded     json.RawMessage   `json:"payload_decoded,omitempty"`
	DecodeError string            `json:"payload_decode_error,omitempty"`
}

// NewEvent returns the shape of an event without its payload.
func NewEvent(e store.EventHead) Event {
	shape := Event{ID: e.ID, Topic: e.Topic, Key: e.Key, Metadata: e.Metadata, Source: e.Source, Amends: e.Amends, PublishedAt: timeOf(e.PublishedAt), Bytes: e.Bytes}
	if shape.Metadata == nil {
		shape.Metadata = map[string]string{}
	}
	return shape
}

// SetPayload adds the payload, or its first bytes.
func (e *Event) SetPayload(read []byte) {
	switch {
	case int64(len(read)) < e.Bytes:
		e.Start = read
	case json.Valid(read) && utf8.Valid(read):
		e.Payload = read
	default:
		e.Base64 = read
	}
}

// Events is a page of events.
type Events struct {
	Events []Event `json:"events"`
	Next   *string `json:"next"` // the Mark where the next page begins; null: this is the last page
}

// NewEvents returns the shape of a page. next is nil for the last page.
func NewEvents(events []store.EventHead, next *store.EventMark) Events {
	page := Events{Events: listOf(events, NewEvent)}
	if next != nil {
		mark := Mark(next)
		page.Next = &mark
	}
	return page
}

// Mark returns the text of a mark: 2026-07-01T12:00:00.123Z/TOPIC/ID. The topic is
// escaped as in a URL. The text of nil is "".
func Mark(m *store.EventMark) string {
	if m == nil {
		return ""
	}
	return m.At.UTC().Format(time.RFC3339Nano) + "/" + url.PathEscape(m.Topic) + "/" + m.ID
}

// ParseMark returns the mark of a text that Mark has returned.
func ParseMark(text string) (*store.EventMark, error) {
	at, rest, _ := strings.Cut(text, "/")
	escaped, id, _ := strings.Cut(rest, "/")
	t, err := time.Parse(time.RFC3339Nano, at)
	topic, wrong := url.PathUnescape(escaped)
	if err != nil || wrong != nil || id == "" {
		return nil, errors.New("want it as the last page said it, such as 2026-07-01T12:00:00.123Z/TOPIC/ID")
	}
	return &store.EventMark{At: t, ID: id, Topic: topic}, nil
}
