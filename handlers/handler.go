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
	"errors"
	"fmt"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Handler is a named function that takes one type of event, or of command. It is a
// Watermill cqrs.EventHandler, cqrs.GroupEventHandler and cqrs.CommandHandler, and
// wherever Reprise takes a handler, any of those will do.
type Handler struct {
	name     string
	newEvent func() any
	unfit    error // why no handler can take such events
	handle   func(ctx context.Context, event any) error
	policies []Policy // one at most
}

var (
	_ cqrs.EventHandler   = (*Handler)(nil)
	_ cqrs.CommandHandler = (*Handler)(nil)
)

// New returns a handler of events of type E, or *E: what is published may be either.
// Write *E for a type that must not be copied, such as a message of protobuf.
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
	h := &Handler{name: name, policies: policy}
	of := reflect.TypeFor[E]()
	pointer := of.Kind() == reflect.Pointer // which must not become a pointer to a pointer
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

// NewEvent implements cqrs.EventHandler: it returns a pointer to a new event.
func (h *Handler) NewEvent() any { return h.newEvent() }

// NewCommand implements cqrs.CommandHandler: it is NewEvent.
func (h *Handler) NewCommand() any { return h.newEvent() }

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
func PolicyOf(h any) Policy {
	if with, ok := h.(interface{ Policy() Policy }); ok {
		return with.Policy()
	}
	return Policy{}
}

// Validate reports a handler that could never run; Accepts says it of the events.
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
