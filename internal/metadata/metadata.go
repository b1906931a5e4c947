// Package metadata carries a caller's metadata in a context.
package metadata

import (
	"context"
	"maps"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

type contextKey struct{}

// With returns a context that carries the metadata, and the metadata of ctx.
func With(ctx context.Context, metadata message.Metadata) context.Context {
	all := message.Metadata{}
	maps.Copy(all, from(ctx))
	maps.Copy(all, metadata)
	return context.WithValue(ctx, contextKey{}, all)
}

// Add copies the metadata of the context into the message. It replaces the message's
// own values, except the key.
func Add(ctx context.Context, msg *message.Message) {
	entries := from(ctx)
	if len(entries) == 0 {
		return
	}
	if msg.Metadata == nil {
		msg.Metadata = message.Metadata{}
	}
	key := msg.Metadata.Get(store.KeyMetadata)
	maps.Copy(msg.Metadata, entries)
	if key != "" {
		msg.Metadata.Set(store.KeyMetadata, key)
	}
}

func from(ctx context.Context) message.Metadata {
	metadata, _ := ctx.Value(contextKey{}).(message.Metadata)
	return metadata
}
