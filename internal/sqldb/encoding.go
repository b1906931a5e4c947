package sqldb

import (
	"encoding/json"
	"slices"
	"strings"
)

// Encoded is a payload and metadata as their columns take them.
type Encoded struct {
	JSON     bool
	Text     string // the payload when it is JSON
	Bytes    []byte // the payload otherwise
	Metadata string
}

// Encode returns how a payload and metadata are kept.
func Encode(payload []byte, metadata map[string]string) Encoded {
	if IsJSON(payload) {
		return Encoded{Text: string(payload), JSON: true, Metadata: metadataText(metadata)}
	}
	return Encoded{Bytes: append([]byte{}, payload...), Metadata: metadataText(metadata)}
}

// TextOrNull is the column payload.
func (e Encoded) TextOrNull() any {
	if e.JSON {
		return e.Text
	}
	return nil
}

// BytesOrNull is the column payload_bytes.
func (e Encoded) BytesOrNull() any {
	if e.JSON {
		return nil
	}
	return e.Bytes
}

// metadataText returns the metadata as a JSON object, the same for the same
// metadata. What needs no escapes, as next to all of it, needs no encoder either.
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

// plain says whether s stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// EventColumns are what an EventRow reads of event e.
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
