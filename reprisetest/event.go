package reprisetest

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// making says how events are made of what is published.
type making struct {
	command bool
	hook    func(topic string, published any, msg *message.Message) error // may be nil
}

// events returns how to make the events that bus.Publish would write.
func (s *settings) events() making {
	if s.onPublish == nil {
		return making{}
	}
	return making{hook: func(topic string, published any, msg *message.Message) error {
		return s.onPublish(cqrs.OnEventSendParams{EventName: topic, Event: published, Message: msg})
	}}
}

// commands returns how to make the events that bus.Send would write.
func (s *settings) commands() making {
	if s.onSend == nil {
		return making{command: true}
	}
	return making{command: true, hook: func(topic string, published any, msg *message.Message) error {
		return s.onSend(cqrs.CommandBusOnSendParams{CommandName: topic, Command: published, Message: msg})
	}}
}

// event makes an event of what is published.
func (s *settings) event(ctx context.Context, as making, published any) (store.Event, error) {
	topic, msg, err := handlers.Message(ctx, s.marshaler, published)
	if err != nil {
		return store.Event{}, err
	}
	if as.hook != nil {
		if err := as.hook(topic, published, msg); err != nil {
			return store.Event{}, fmt.Errorf("%q: the hook: %w", topic, err)
		}
	}
	e := pubsub.EventOf(topic, msg)
	return e, e.Validate()
}

// newRun returns a run before its first attempt.
func newRun(id int64, h cqrs.EventHandler, e store.Event) store.Run {
	return store.Run{ID: id, EventID: e.ID, Topic: e.Topic, Handler: h.HandlerName(), Status: store.Pending, Key: e.Key}
}
