package bus

import (
	"context"
	"fmt"
	"maps"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

type metadataKey struct{}

// WithMetadata returns a context under which everything is published with the
// metadata: by Publish, PublishTx, Send and SendTx, such as the tenant or the user of
// a request. It adds to the metadata of contexts around it. An entry goes before one
// of the same name that the marshaler sets; a key that the event has by EventKey
// stays. It does not go on by itself to what the event's handlers publish.
func WithMetadata(ctx context.Context, metadata message.Metadata) context.Context {
	all := message.Metadata{}
	maps.Copy(all, metadataFrom(ctx))
	maps.Copy(all, metadata)
	return context.WithValue(ctx, metadataKey{}, all)
}

func metadataFrom(ctx context.Context) message.Metadata {
	metadata, _ := ctx.Value(metadataKey{}).(message.Metadata)
	return metadata
}

// addMetadata adds what WithMetadata has put into the context.
func addMetadata(ctx context.Context, msg *message.Message) {
	metadata := metadataFrom(ctx)
	if len(metadata) == 0 {
		return
	}
	if msg.Metadata == nil {
		msg.Metadata = message.Metadata{}
	}
	key := msg.Metadata.Get(store.KeyMetadata)
	maps.Copy(msg.Metadata, metadata)
	if key != "" {
		msg.Metadata.Set(store.KeyMetadata, key)
	}
}

// hook is called with each message before it is published.
type hook func(topic string, event any, msg *message.Message) error

func (b *Bus) onPublish(topic string, event any, msg *message.Message) error {
	if b.config.OnPublish == nil {
		return nil
	}
	if err := b.config.OnPublish(cqrs.OnEventSendParams{EventName: topic, Event: event, Message: msg}); err != nil {
		return fmt.Errorf("event %q: OnPublish: %w", topic, err)
	}
	return nil
}

func (b *Bus) onSend(topic string, command any, msg *message.Message) error {
	if b.config.OnSend == nil {
		return nil
	}
	if err := b.config.OnSend(cqrs.CommandBusOnSendParams{CommandName: topic, Command: command, Message: msg}); err != nil {
		return fmt.Errorf("command %q: OnSend: %w", topic, err)
	}
	return nil
}
