package store

import (
	"encoding/json"
	"maps"
	"strings"

	"github.com/google/uuid"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Metadata that says where an event comes from. Two publishes of one message may differ
// in these fields: a retried handler publishes under another trace.
const (
	CorrelationIDMetadata = "correlation_id" // Watermill's: the id of the event that began the chain
	CausationIDMetadata   = "causation_id"   // the id of the event whose handler published this event
	TraceParentMetadata   = "traceparent"    // W3C's Trace Context
	TraceStateMetadata    = "tracestate"
	RepeatsMetadata       = "repeats_id" // the id of the event on the same topic that this event repeats
)

// declaredMetadata marks an event on a broker as Declared.
const declaredMetadata = "reprise_declared"

// incidental reports whether events that differ only in this metadata field are the
// same event.
func incidental(key string) bool {
	switch key {
	case CorrelationIDMetadata, CausationIDMetadata, TraceParentMetadata, TraceStateMetadata, OperationMetadata, RepeatsMetadata, declaredMetadata:
		return true
	}
	return false
}

// essential returns the metadata that distinguishes events.
func essential(metadata map[string]string) map[string]string {
	left := make(map[string]string, len(metadata))
	for k, v := range metadata {
		if !incidental(k) {
			left[k] = v
		}
	}
	return left
}

// Repeats compares the event with a known event that has the same id and payload and
// the given metadata. It reports whether they are two events: their metadata differs in
// more than the incidental fields (correlation, causation, trace, operation,
// repeats_id), and the event is not Declared.
func (e *Event) Repeats(metadata map[string]string) bool {
	return !e.Declared && !maps.Equal(essential(e.Metadata), essential(metadata))
}

// Repeat returns the event under an id of its own, with the id of the first event in
// RepeatsMetadata. The new id is made of topic, id, payload and metadata, so that each
// publish of the same repeat has the same id.
func (e Event) Repeat() Event {
	text, _ := json.Marshal(essential(e.Metadata)) // sorted by key; a map of strings always marshals
	first := e.ID
	e.ID = uuid.NewSHA1(uuid.MustParse(e.Renamed().ID), text).String()
	e.Metadata = maps.Clone(e.Metadata)
	if e.Metadata == nil {
		e.Metadata = map[string]string{}
	}
	e.Metadata[RepeatsMetadata] = first
	return e
}

// Mark returns a Declared event with a mark in its metadata, which tells a receiver
// behind a broker that it is Declared. It returns any other event unchanged.
func (e Event) Mark() Event {
	if !e.Declared {
		return e
	}
	mark := e.Repeat().ID
	e.Metadata = maps.Clone(e.Metadata)
	if e.Metadata == nil {
		e.Metadata = map[string]string{}
	}
	e.Metadata[declaredMetadata] = mark
	return e
}

// Unmark undoes Mark. The mark is made of the event's content. It does not count for an
// event with other metadata, such as a poison queue's, which carries all metadata of
// the first event.
func (e Event) Unmark() Event {
	mark, marked := e.Metadata[declaredMetadata]
	if !marked {
		return e
	}
	e.Metadata = maps.Clone(e.Metadata)
	delete(e.Metadata, declaredMetadata)
	e.Declared = mark == e.Repeat().ID
	return e
}

// Keepable returns an event from outside in a form that the database can keep. Invalid
// UTF-8 in the metadata becomes U+FFFD. A key that no run can have is removed from Key
// and stays in the metadata. An event whose id cannot be kept is Renamed. The metadata
// is a copy.
func (e Event) Keepable() Event {
	sent := e.Metadata
	e.Metadata = nil
	if len(sent) > 0 {
		e.Metadata = make(map[string]string, len(sent))
		for k, v := range sent {
			e.Metadata[strings.ToValidUTF8(k, "\uFFFD")] = strings.ToValidUTF8(v, "\uFFFD")
		}
	}
	if e.Key != "" && sqldb.ValidName("key", e.Key) != nil {
		e.Key = ""
	}
	if sqldb.ValidName("id", e.ID) != nil {
		e = e.Renamed()
	}
	return e
}

// Renamed returns the event with an id made of its topic, id and payload: the same
// event always gets the same id. It is for an event whose id belongs to an event with
// another payload, or cannot be kept by the database.
func (e Event) Renamed() Event {
	e.ID = uuid.NewSHA1(uuid.NameSpaceOID, append([]byte(e.Topic+"\x00"+e.ID+"\x00"), e.Payload...)).String()
	return e
}
