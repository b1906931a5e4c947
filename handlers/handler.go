// Package handlers defines handlers: named functions that react to the events of one
// topic, each with a Policy for its failures.
//
// To write handlers you need New and Policy; Permanent, SkipCycle and Snooze for errors
// that say more; and Tx in a transactional handler. The rest, such as Delivery, Failure
// and SafeError, is for authors of subscribers and middleware.
package handlers

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Handler is a named function for one type of event or command. It implements Watermill's
// cqrs.EventHandler, cqrs.GroupEventHandler and cqrs.CommandHandler. Reprise accepts any
// implementation of these wherever it takes a handler.
type Handler struct {
	name     string
	newEvent func() any
	unfit    error // why no handler can take events of this type
	handle   func(ctx context.Context, event any) error
	policies []Policy // at most one
}

var (
	_ cqrs.EventHandler   = (*Handler)(nil)
	_ cqrs.CommandHandler = (*Handler)(nil)
)

// New returns a handler of events of type E or *E. Published events may be values or
// pointers. Use *E for a type that must not be copied, such as a protobuf message.
//
// The name is the handler's identity in the database. Write it by hand, unique in the
// application, and keep it when the code moves. The function is called concurrently. A
// nil error makes the run a SUCCESS. The function may get an event more than once, so it
// should be idempotent. The event's id is the UUID of cqrs.OriginalMessageFromCtx(ctx).
//
// Pass at most one policy. Without one, the handler has the zero Policy with its
// defaults.
func New[E any](name string, handle func(ctx context.Context, event E) error, policy ...Policy) *Handler {
	h := &Handler{name: name, policies: policy}
	of := reflect.TypeFor[E]()
	pointer := of.Kind() == reflect.Pointer // E is *T: NewEvent must not return a **T
	if pointer {
		h.newEvent = func() any { return reflect.New(of.Elem()).Interface() }
	} else {
		h.newEvent = func() any { return new(E) }
		h.unfit = copied(of)
	}
	switch {
	case handle == nil:
	case pointer:
		h.handle = func(ctx context.Context, event any) error { return handle(ctx, event.(E)) }
	default:
		h.handle = func(ctx context.Context, event any) error { return handle(ctx, *event.(*E)) }
	}
	return h
}

// HandlerName implements cqrs.EventHandler.
func (h *Handler) HandlerName() string { return h.name }

// NewEvent implements cqrs.EventHandler. It returns a pointer to a new event.
func (h *Handler) NewEvent() any { return h.newEvent() }

// NewCommand implements cqrs.CommandHandler. It does the same as NewEvent.
func (h *Handler) NewCommand() any { return h.newEvent() }

// Handle implements cqrs.EventHandler. event must come from NewEvent.
func (h *Handler) Handle(ctx context.Context, event any) error { return h.handle(ctx, event) }

// Policy returns the handler's policy.
func (h *Handler) Policy() Policy {
	if len(h.policies) == 0 {
		return Policy{}
	}
	return h.policies[0]
}

// PolicyOf returns the policy of any handler: the result of its method Policy(), or the
// zero Policy if it has no such method.
func PolicyOf(h any) Policy {
	if with, ok := h.(interface{ Policy() Policy }); ok {
		return with.Policy()
	}
	return Policy{}
}

// Validate reports a handler that could never run. Accepts does the same for its events.
func Validate(h cqrs.EventHandler) error {
	own, ours := h.(*Handler)
	switch {
	case h == nil, ours && own == nil:
		return errors.New("the handler is nil: make one with handlers.New")
	case h.HandlerName() == "":
		return fmt.Errorf("a handler of %T has no name: the name is its identity in the database, write one such as \"send-welcome-email\"", h.NewEvent())
	case ours && own.unfit != nil:
		return fmt.Errorf("handler %q: %w", own.name, own.unfit)
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

// Func returns the handler as a function for Watermill's router. A payload that the
// marshaler cannot decode is an Undecodable error.
func Func(h cqrs.EventHandler, marshaler cqrs.CommandEventMarshaler) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		event := h.NewEvent()
		if err := marshaler.Unmarshal(msg, event); err != nil {
			return Undecodable(fmt.Errorf("event %s does not decode into %T: %w", msg.UUID, event, err))
		}
		return h.Handle(cqrs.CtxWithOriginalMessage(msg.Context(), msg), event)
	}
}
