package handlers

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/reprise-bus/reprise/store"
)

// JSON returns the marshaler that is the bus's default: payloads are JSON, an
// event's topic is what its method EventName returns, and ids are near each
// other in the index when they are near in time.
func JSON() cqrs.CommandEventMarshaler {
	return cqrs.JSONMarshaler{
		NewUUID:      func() string { return uuid.Must(uuid.NewV7()).String() },
		GenerateName: EventName,
	}
}

// Topic returns the topic of an event, which is its name by the marshaler. An
// event without a name is an error.
func Topic(marshaler cqrs.CommandEventMarshaler, event any) (string, error) {
	if event == nil {
		return "", errors.New("the event is nil")
	}
	if name := marshaler.Name(event); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("event %T has no name: give it a method EventName() string, such as \"user.signed_up\", or set the marshaler to one that names events", event)
}

// Message returns the message that an event is published as, and its topic. Its
// UUID is what the event's method EventID returns, if it has one that does not
// return "", and its key what EventKey does; the methods may have the event or a
// pointer to it as receiver, however the event is given. Its context is ctx.
func Message(ctx context.Context, marshaler cqrs.CommandEventMarshaler, event any) (topic string, msg *message.Message, err error) {
	if topic, err = Topic(marshaler, event); err != nil {
		return "", nil, err
	}
	if msg, err = marshaler.Marshal(event); err != nil {
		return topic, nil, fmt.Errorf("event %q: %w", topic, err)
	}
	methods := addressed(event)
	if keyed, ok := methods.(interface{ EventKey() string }); ok {
		msg.Metadata.Set(store.KeyMetadata, keyed.EventKey())
	}
	if known, ok := methods.(interface{ EventID() string }); ok && known.EventID() != "" {
		msg.UUID = known.EventID()
	}
	msg.SetContext(ctx)
	return topic, msg, nil
}
