package reprisetest

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// event makes of an event what bus.Publish would write.
func (s *settings) event(ctx context.Context, event any) (store.Event, error) {
	topic, msg, err := handlers.Message(ctx, s.marshaler, event)
	if err != nil {
		return store.Event{}, err
	}
	e := pubsub.EventOf(topic, msg)
	return e, e.Validate()
}

// newRun is a run before its first attempt.
func newRun(id int64, h cqrs.EventHandler, e store.Event) store.Run {
	return store.Run{ID: id, EventID: e.ID, Topic: e.Topic, Handler: h.HandlerName(), Status: store.Pending, Key: e.Key}
}
