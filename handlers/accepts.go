package handlers

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Accepts returns the topic of a handler's events, given an event from its NewEvent or
// NewCommand. It returns an error if such events could never be published, named or
// decoded by the marshaler, and the error says what to write instead.
func Accepts(marshaler cqrs.CommandEventMarshaler, event any) (topic string, err error) {
	if err := decodable(event); err != nil {
		return "", err
	}
	if topic, err = Topic(marshaler, event); err != nil {
		return "", err
	}
	// A zero event may fail to marshal because fields are missing, and an empty payload
	// may fail to decode. Only errors about the type count here.
	defer func() {
		if p := recover(); p != nil {
			topic, err = "", fmt.Errorf("event %T: the marshaler %T panics on one that is zero (%v): let it return an error", event, marshaler, p)
		}
	}()
	_, err = marshaler.Marshal(event)
	var unsupported *json.UnsupportedTypeError
	if errors.As(err, &unsupported) {
		return "", fmt.Errorf("event %T: the marshaler %T cannot write a %s: give the field another type, or the tag `json:\"-\"`", event, marshaler, unsupported.Type)
	}
	var noProto cqrs.NoProtoMessageError
	if errors.As(marshaler.Unmarshal(message.NewMessage("", nil), event), &noProto) {
		return "", fmt.Errorf("event %T is no message of protobuf, which the marshaler %T wants: make the handler one of the type that protoc has generated, or set another marshaler", event, marshaler)
	}
	return topic, nil
}

// decodable reports an event into which no payload can be decoded.
func decodable(event any) error {
	v := reflect.ValueOf(event)
	switch {
	case !v.IsValid():
		return errors.New("the handler makes no event: its NewEvent returns nil, want a pointer to a new event")
	case v.Kind() != reflect.Pointer:
		return fmt.Errorf("the handler makes a %T, into which nothing can be decoded: want a pointer, &%T{}", event, event)
	case v.IsNil():
		return fmt.Errorf("the handler makes a nil %T: want a pointer to a new event", event)
	}
	of := v.Type().Elem()
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	switch of.Kind() {
	case reflect.Interface:
		return fmt.Errorf("%s is an interface, and a payload does not say which type it was: write a handler for each type of event", of)
	case reflect.Chan, reflect.Func, reflect.UnsafePointer:
		return fmt.Errorf("%s cannot be published: write a handler of a type of data, such as a struct", of)
	}
	return nil
}

// copied reports a type whose values must not be copied. A handler of values would copy
// one for each event.
func copied(of reflect.Type) error {
	if !locks(of) {
		return nil
	}
	return fmt.Errorf("%s contains a lock and must not be copied: write the handler for the pointer, func(ctx context.Context, event *%s) error", of, of)
}

var locker = reflect.TypeFor[sync.Locker]()

// locks reports whether go vet's copylocks would report a copy of the type.
func locks(of reflect.Type) bool {
	switch of.Kind() {
	case reflect.Array:
		return locks(of.Elem())
	case reflect.Struct:
		if reflect.PointerTo(of).Implements(locker) && !of.Implements(locker) {
			return true
		}
		for i := range of.NumField() {
			if locks(of.Field(i).Type) {
				return true
			}
		}
	}
	return false
}
