package sqldb

import (
	"encoding/json"
	"slices"
	"strings"
)

// Encoded is a payload and metadata in the form of their columns.
type Encoded struct {
	JSON     bool
	Text     string // the payload when it is JSON
	Bytes    []byte // the payload otherwise
	Metadata string
}

// Encode returns the stored form of a payload and metadata.
func Encode(payload []byte, metadata map[string]string) Encoded {
	if IsJSON(payload) {
		return Encoded{Text: string(payload), JSON: true, Metadata: metadataText(metadata)}
	}
	return Encoded{Bytes: append([]byte{}, payload...), Metadata: metadataText(metadata)}
}

// TextOrNull returns the value of the column payload.
func (e Encoded) TextOrNull() any {
	if e.JSON {
		return e.Text
	}
	return nil
}

// BytesOrNull returns the value of the column payload_bytes.
func (e Encoded) BytesOrNull() any {
	if e.JSON {
		return nil
	}
	return e.Bytes
}

// metadataText returns the metadata as a JSON object. Equal metadata gives the same
// text. Text without escapes, which is almost all metadata, needs no encoder.
func metadataText(metadata map[string]string) string {
	var text strings.Builder
	var room [8]string
	keys, size := room[:0], 2
	for k, v := range metadata {
		if !plain(k) || !plain(v) {
			b, _ := json.Marshal(metadata) // a map of strings always marshals
			return string(b)
		}
		keys = append(keys, k)
		size += len(k) + len(v) + 6
	}
	slices.Sort(keys)
	text.Grow(size)
	text.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteByte('"')
		text.WriteString(k)
		text.WriteString(`":"`)
		text.WriteString(metadata[k])
		text.WriteByte('"')
	}
	text.WriteByte('}')
	return text.String()
}

// plain reports whether s needs no escape in JSON.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// EventColumns are the columns of event e that an EventRow reads.
const EventColumns = `e.id AS event_id, e.topic, e.key, e.payload, e.payload_bytes, e.metadata, e.source,
	coalesce(e.amends, '') AS amends, e.published_at`

// EventRow is an event as the databases return it.
type EventRow struct {
	ID           string `db:"event_id"`
	Topic        string `db:"topic"`
	Key          string `db:"key"`
	Payload      []byte `db:"payload"`
	PayloadBytes []byte `db:"payload_bytes"`
	Metadata     []byte `db:"metadata"`
	Source       string `db:"source"`
	Amends       string `db:"amends"`
	PublishedAt  Time   `db:"published_at"`
}

// Content returns the payload.
func (r EventRow) Content() []byte {
	switch {
	case r.Payload != nil:
		return r.Payload
	case r.PayloadBytes != nil:
		return r.PayloadBytes
	}
	return []byte{}
}
