// Package handlers says what a handler is: a named function that reacts to the
// events of one topic, with a Policy for its failures.
//
// Who writes handlers needs New and Policy; Permanent, SkipCycle and Snooze to
// say more by an error; and Tx in a transactional handler. The rest – Delivery,
// Failure, Sound and what they are made of – is for those who build subscribers
// and middleware.
package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Handler is a named function that takes one type of event. It is a Watermill
// cqrs.EventHandler, and wherever Reprise takes a handler, any of those will
// do.
type Handler struct {
	name     string
	event    reflect.Type // what the function takes
	newEvent func() any
	handle   func(ctx context.Context, event any) error
	policies []Policy // one at most
}

var _ cqrs.EventHandler = (*Handler)(nil)

// New returns a handler of events of type E: a struct or a pointer to one, a
// protobuf message among them, or any other type that the bus's marshaler decodes.
//
// The name is the handler's identity in the database: it is written by hand,
// unique in the application, and stays what it is when the code moves. The
// function is called concurrently; a nil error is the run's success. It may
// see an event more than once, so it should be idempotent: the event's id is
// that of cqrs.OriginalMessageFromCtx(ctx).
//
// At most one policy says what becomes of its runs; without one, it is the
// zero Policy with its defaults.
func New[E any](name string, handle func(ctx context.Context, event E) error, policy ...Policy) *Handler {
	h := &Handler{name: name, event: reflect.TypeFor[E](), newEvent: func() any { return new(E) }, policies: policy}
	toHandler := func(event any) E { return *event.(*E) }
	if h.event.Kind() == reflect.Pointer { // decoded into it, not into a pointer to it
		h.newEvent = func() any { return reflect.New(h.event.Elem()).Interface() }
		toHandler = func(event any) E { return event.(E) }
	}
	if handle != nil {
		h.handle = func(ctx context.Context, event any) error { return handle(ctx, toHandler(event)) }
	}
	return h
}

// HandlerName implements cqrs.EventHandler.
func (h *Handler) HandlerName() string { return h.name }

// NewEvent implements cqrs.EventHandler: it returns a pointer to a new E, or a new E
// where that is a pointer.
func (h *Handler) NewEvent() any { return h.newEvent() }

// Handle implements cqrs.EventHandler; event is what NewEvent returned.
func (h *Handler) Handle(ctx context.Context, event any) error { return h.handle(ctx, event) }

// Policy returns the handler's policy.
func (h *Handler) Policy() Policy {
	if len(h.policies) == 0 {
		return Policy{}
	}
	return h.policies[0]
}

// PolicyOf returns the policy of any handler: what its method Policy() returns,
// if it has one, or else the zero Policy.
func PolicyOf(h cqrs.EventHandler) Policy {
	if with, ok := h.(interface{ Policy() Policy }); ok {
		return with.Policy()
	}
	return Policy{}
}

// Validate reports a handler that could never run. See also Decodable.
func Validate(h cqrs.EventHandler) error {
	own, ours := h.(*Handler)
	if h == nil || ours && own == nil {
		return errors.New("the handler is nil: make one with handlers.New")
	}
	if err := validType(h, own); err != nil {
		return fmt.Errorf("handler %q: %w", h.HandlerName(), err)
	}
	switch {
	case h.HandlerName() == "":
		return fmt.Errorf("a handler of %T has no name: the name is its identity in the database, write one such as \"send-welcome-email\"", h.NewEvent())
	case ours && own.handle == nil:
		return fmt.Errorf("handler %q has no function", own.name)
	case ours && len(own.policies) > 1:
		return fmt.Errorf("handler %q has %d policies: want at most one", own.name, len(own.policies))
	}
	if err := PolicyOf(h).Validate(); err != nil {
		return fmt.Errorf("handler %q: policy: %w", h.HandlerName(), err)
	}
	return nil
}

// validType reports events that no marshaler could fill.
func validType(h cqrs.EventHandler, own *Handler) error {
	if own != nil {
		t := own.event
		switch {
		case t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Pointer:
			return fmt.Errorf("its events are of type %v, a pointer to a pointer: write %v", t, t.Elem())
		case t.Kind() == reflect.Interface, t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Interface:
			return fmt.Errorf("its events are of type %v, an interface, which nothing can be decoded into: write the type of the event, such as a struct", t)
		}
		return nil
	}
	event := reflect.ValueOf(h.NewEvent())
	if event.Kind() != reflect.Pointer || event.IsNil() {
		return fmt.Errorf("the NewEvent of %T returns %T %v: let it return a pointer to a new event, which is decoded into", h, h.NewEvent(), h.NewEvent())
	}
	return nil
}

// Decodable reports a handler whose events are of a type that the marshaler can
// neither make nor read, as far as the marshaler says so of an empty one.
func Decodable(h cqrs.EventHandler, marshaler cqrs.CommandEventMarshaler) (err error) {
	defer func() {
		if recover() != nil { // of a method of the event's, which wants more than an empty one
			err = nil
		}
	}()
	_, err = marshaler.Marshal(h.NewEvent())
	var (
		noJSON  *json.UnsupportedTypeError
		noProto cqrs.NoProtoMessageError
	)
	switch {
	case errors.As(err, &noJSON):
		return fmt.Errorf("handler %q: events of type %T cannot be JSON (%v): write a type without channels, functions and complex numbers, or set another marshaler", h.HandlerName(), h.NewEvent(), noJSON)
	case errors.As(err, &noProto):
		return fmt.Errorf("handler %q: events of type %T are no protobuf messages, which is what the marshaler %T takes: write the generated type, or set another marshaler", h.HandlerName(), h.NewEvent(), marshaler)
	}
	return nil
}

// Func makes a handler what Watermill's router takes. A payload that the
// marshaler does not decode is an Undecodable error.
func Func(h cqrs.EventHandler, marshaler cqrs.CommandEventMarshaler) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		event := h.NewEvent()
		if err := marshaler.Unmarshal(msg, event); err != nil {
			return Undecodable(fmt.Errorf("event %s does not decode into %T: %w", msg.UUID, event, err))
		}
		return h.Handle(cqrs.CtxWithOriginalMessage(msg.Context(), msg), event)
	}
}
