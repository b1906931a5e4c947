package bus

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/internal/metadata"
)

// WithMetadata returns a context whose entries are added to the metadata of every message
// that is published with it, by Publish, PublishTx, Send and SendTx. Examples are the
// tenant or the user of a request. The entries are added to those of parent contexts. An
// entry replaces the marshaler's entry of the same name, but not a key from EventKey. The
// event's handlers do not pass the entries on to what they publish.
func WithMetadata(ctx context.Context, entries message.Metadata) context.Context {
	return metadata.With(ctx, entries)
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
