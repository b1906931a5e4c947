package store

import (
	"encoding/json"
	"maps"
	"strings"

	"github.com/google/uuid"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Metadata that says what an event follows from. Two publishes of one message may
// differ in it: a handler that is tried again publishes under another trace.
const (
	CorrelationIDMetadata = "correlation_id" // Watermill's: the id of the event that began it all
	CausationIDMetadata   = "causation_id"   // the id of the event whose handler published this one
	TraceParentMetadata   = "traceparent"    // W3C's Trace Context
	TraceStateMetadata    = "tracestate"
	RepeatsMetadata       = "repeats_id" // the id of the event, on its topic, that this one repeats
)

// declaredMetadata is how an event that a broker carries says that it is Declared.
const declaredMetadata = "reprise_declared"

// incidental is the metadata that does not make an event another one.
func incidental(key string) bool {
	switch key {
	case CorrelationIDMetadata, CausationIDMetadata, TraceParentMetadata, TraceStateMetadata, OperationMetadata, RepeatsMetadata, declaredMetadata:
		return true
	}
	return false
}

// essential returns the metadata that tells events apart.
func essential(metadata map[string]string) map[string]string {
	left := make(map[string]string, len(metadata))
	for k, v := range metadata {
		if !incidental(k) {
			left[k] = v
		}
	}
	return left
}

// Repeats says whether the event, published or delivered under the id of one that
// is there with the same payload and the given metadata, is another event. It is
// when the metadata differs in more than what an event follows from, and the event
// does not declare its identity.
func (e *Event) Repeats(metadata map[string]string) bool {
	return !e.Declared && !maps.Equal(essential(e.Metadata), essential(metadata))
}

// Repeat returns the event as one that repeats the event of its id: with an id of
// its own, which is made of topic, id, payload and metadata and so the same
// whenever the repeat is published, and with that of the first in its metadata.
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

// Mark returns a Declared event as one that says so in its metadata, to whoever
// gets it from a broker; any other as it is.
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

// Unmark undoes Mark. The mark is made of what the event is: it counts for none
// with other metadata, such as one that a poison queue has published with all
// metadata of the first.
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

// Keepable returns what a stranger has sent as the database can keep it: what is not
// UTF-8 in its metadata is U+FFFD, a key that no run can have stays in the metadata
// only, and an event whose id cannot be kept is Renamed. The metadata is a copy.
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

// Renamed returns the event with an id made of what it is, the same whenever it
// comes: for one whose id is that of an event with another payload, or no id that
// the database could keep.
func (e Event) Renamed() Event {
	e.ID = uuid.NewSHA1(uuid.NameSpaceOID, append([]byte(e.Topic+"\x00"+e.ID+"\x00"), e.Payload...)).String()
	return e
}
