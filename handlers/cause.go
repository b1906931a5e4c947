package handlers

import (
	"cmp"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// Follow adds to the metadata of a message that a handler publishes the ids and
// the trace of the message being handled, unless they are set. It returns the
// metadata, which it makes if there is none.
func Follow(metadata message.Metadata, cause *message.Message) message.Metadata {
	if metadata == nil {
		metadata = message.Metadata{}
	}
	if metadata.Get(store.CausationIDMetadata) == "" {
		metadata.Set(store.CausationIDMetadata, cause.UUID)
	}
	if metadata.Get(store.CorrelationIDMetadata) == "" {
		metadata.Set(store.CorrelationIDMetadata, cmp.Or(cause.Metadata.Get(store.CorrelationIDMetadata), cause.UUID))
	}
	if metadata.Get(store.TraceParentMetadata) == "" && cause.Metadata.Get(store.TraceParentMetadata) != "" {
		metadata.Set(store.TraceParentMetadata, cause.Metadata.Get(store.TraceParentMetadata))
		if state := cause.Metadata.Get(store.TraceStateMetadata); state != "" {
			metadata.Set(store.TraceStateMetadata, state)
		}
	}
	return metadata
}
