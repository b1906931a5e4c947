package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/reprise-bus/reprise/internal/metadata"
	"github.com/reprise-bus/reprise/store"
)

// This file converts published events to messages, for bus and reprisetest. Topic and
// Message name and marshal an event. Declare marks a message whose id comes from the
// application.

// JSON returns the bus's default marshaler. Payloads are JSON, the topic of an event is
// the result of its method EventName, and ids are UUIDv7: ids near in time are near in
// the index.
func JSON() cqrs.CommandEventMarshaler {
	return cqrs.JSONMarshaler{
		NewUUID:      func() string { return uuid.Must(uuid.NewV7()).String() },
		GenerateName: EventName,
	}
}

// Topic returns the topic of an event: its name by the marshaler. A value, a pointer and
// a pointer to a pointer have the same topic, nil or not. It returns an error for an
// event without a name and for a name that cannot be a topic.
func Topic(marshaler cqrs.CommandEventMarshaler, event any) (string, error) {
	return topic(marshaler, event, pointerTo(event))
}

// topic returns the name of the pointer to the event. It uses the name of the event as
// given only if the marshaler has no name for the pointer.
func topic(marshaler cqrs.CommandEventMarshaler, event, pointer any) (string, error) {
	if event == nil {
		return "", errors.New("the event is nil")
	}
	name := cmp.Or(marshaler.Name(pointer), marshaler.Name(event))
	if name == "" {
		return "", fmt.Errorf("event %T has no name: give it a method EventName() string, such as \"user.signed_up\", or set the marshaler to one that names events", event)
	}
	if strings.HasSuffix(name, "]") && strings.Count(name, "[") != strings.Count(name, "]") {
		// cqrs.StructName returns what follows the last dot: "User]" for
		// page.Of[users.User].
		return "", fmt.Errorf("event %T is named %q, which is the end of its name only, as of other generic types: set the marshaler's GenerateName to cqrs.FullyQualifiedStructName, or to handlers.EventName and give the event a method EventName() string", event, name)
	}
	if err := store.ValidTopic(name); err != nil {
		return "", fmt.Errorf("event %T: %w", event, err)
	}
	return name, nil
}

// Message returns the topic of an event and the message to publish. The message's UUID is
// the result of the event's method EventID; if that is missing or returns "", the
// marshaler sets the UUID. Its key is the result of the method EventKey. It has the
// metadata of bus.WithMetadata, and ctx as its context. The methods may have pointer
// receivers even if the event is a value.
func Message(ctx context.Context, marshaler cqrs.CommandEventMarshaler, event any) (string, *message.Message, error) {
	if event != nil && isNil(event) {
		return "", nil, fmt.Errorf("the event is a nil %T: publish an event", event)
	}
	pointer := pointerTo(event)
	topic, err := topic(marshaler, event, pointer)
	if err != nil {
		return "", nil, err
	}
	msg, err := marshal(marshaler, event, pointer, topic)
	if err != nil {
		return topic, nil, fmt.Errorf("event %q: %w", topic, err)
	}
	if keyed, ok := pointer.(interface{ EventKey() string }); ok {
		msg.Metadata.Set(store.KeyMetadata, keyed.EventKey())
	}
	metadata.Add(ctx, msg)
	msg.SetContext(ctx)
	if known, ok := pointer.(interface{ EventID() string }); ok {
		if id := known.EventID(); id != "" {
			msg.UUID = id
			Declare(msg)
		}
	}
	return topic, msg, nil
}

type declaredKey struct{}

// Declare marks the message's UUID as the identity of its event, as Message does for an
// event with an EventID. A message with the same UUID is then the same event, whatever
// its metadata says. A copy of the message is not marked.
func Declare(msg *message.Message) {
	msg.SetContext(context.WithValue(msg.Context(), declaredKey{}, msg))
}

// Declared reports whether Declare was called for the message and its context still is,
// or derives from, the one that Declare set.
func Declared(msg *message.Message) bool {
	of, _ := msg.Context().Value(declaredKey{}).(*message.Message)
	return of == msg
}

// marshal gives the marshaler the event as it was published. If the marshaler names or
// takes only the pointer, it gets the pointer.
func marshal(marshaler cqrs.CommandEventMarshaler, event, pointer any, topic string) (*message.Message, error) {
	if reflect.TypeOf(event) == reflect.TypeOf(pointer) || marshaler.Name(event) != topic {
		return marshaler.Marshal(pointer)
	}
	msg, err := marshaler.Marshal(event)
	if err != nil {
		if msg, err := marshaler.Marshal(pointer); err == nil {
			return msg, nil
		}
	}
	return msg, err
}
