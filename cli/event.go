package cli

import (
	"encoding/json"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// eventJSON is an event for programs.
type eventJSON struct {
	ID          string            `json:"id"`
	Topic       string            `json:"topic"`
	Key         string            `json:"key"`
	Metadata    map[string]string `json:"metadata"`
	Source      string            `json:"source"`
	Amends      string            `json:"amends"`
	PublishedAt *time.Time        `json:"published_at"`
	Payload     json.RawMessage   `json:"payload,omitempty"`        // that is JSON
	Base64      []byte            `json:"payload_base64,omitempty"` // that is not
	Decoded     json.RawMessage   `json:"payload_decoded,omitempty"`
	DecodeError string            `json:"payload_decode_error,omitempty"`
}

func newEventJSON(e store.Event, payload bool) eventJSON {
	data := eventJSON{ID: e.ID, Topic: e.Topic, Key: e.Key, Metadata: e.Metadata, Source: e.Source, Amends: e.Amends, PublishedAt: utc(e.PublishedAt)}
	if data.Metadata == nil {
		data.Metadata = map[string]string{}
	}
	switch {
	case !payload:
	case json.Valid(e.Payload):
		data.Payload = e.Payload
	default:
		data.Base64 = e.Payload
	}
	return data
}
