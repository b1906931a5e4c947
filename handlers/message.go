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

// This file makes a message of what an application publishes: Topic and Message name
// and marshal it, here for bus and reprisetest alike. Declare marks a message whose
// event has an id of the application's own.

// JSON returns the marshaler that is the bus's default: payloads are JSON, an
// event's topic is what its method EventName returns, and ids are near each
// other in the index when they are near in time.
func JSON() cqrs.CommandEventMarshaler {
	return cqrs.JSONMarshaler{
		NewUUID:      func() string { return uuid.Must(uuid.NewV7()).String() },
		GenerateName: EventName,
	}
}

// Topic returns the topic of an event, which is its name by the marshaler: the same
// for a value, a pointer, and a pointer to a pointer, nil or not. An event without a
// name is an error, and so is a name that no topic can have.
func Topic(marshaler cqrs.CommandEventMarshaler, event any) (string, error) {
	return topic(marshaler, event, pointerTo(event))
}

// topic returns the name of the pointer to the event; of the event as it is given
// only where the marshaler names no pointers.
func topic(marshaler cqrs.CommandEventMarshaler, event, pointer any) (string, error) {
	if event == nil {
		return "", errors.New("the event is nil")
	}
	name := cmp.Or(marshaler.Name(pointer), marshaler.Name(event))
	if name == "" {
		return "", fmt.Errorf("event %T has no name: give it a method EventName() string, such as \"user.signed_up\", or set the marshaler to one that names events", event)
	}
	if strings.HasSuffix(name, "]") && strings.Count(name, "[") != strings.Count(name, "]") {
		// cqrs.StructName takes what comes after the last dot: of page.Of[users.User], User].
		return "", fmt.Errorf("event %T is named %q, which is the end of its name only, as of other generic types: set the marshaler's GenerateName to cqrs.FullyQualifiedStructName, or to handlers.EventName and give the event a method EventName() string", event, name)
	}
	if err := store.ValidTopic(name); err != nil {
		return "", fmt.Errorf("event %T: %w", event, err)
	}
	return name, nil
}

// Message returns the message that an event is published as, and its topic. Its
// UUID is what the event's method EventID returns, if it has one that does not
// return "", and its key what EventKey does; it has the metadata of
// bus.WithMetadata, and its context is ctx. The methods may be the pointer's, also
// where the event is a value.
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

// Declare says that the message's UUID is the identity of its event, as Message does
// for one that has an EventID: published again it is the same event, whatever its
// metadata says. A copy of the message does not say so.
func Declare(msg *message.Message) {
	msg.SetContext(context.WithValue(msg.Context(), declaredKey{}, msg))
}

// Declared says whether Declare was called for the message, and its context is still
// that, or of that.
func Declared(msg *message.Message) bool {
	of, _ := msg.Context().Value(declaredKey{}).(*message.Message)
	return of == msg
}

// marshal gives the marshaler the event as it was published. Where the marshaler
// names or takes only the pointer, it gets that.
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
