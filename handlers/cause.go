package handlers

import (
	"cmp"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// Follow adds the correlation id, the causation id and the trace of the message being
// handled to the metadata of a message that its handler publishes. Entries that are set
// stay. It returns the metadata, a new map if metadata is nil.
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
