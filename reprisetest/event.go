package reprisetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// event makes of an event what bus.Publish would write.
func (s *settings) event(ctx context.Context, event any) (store.Event, error) {
	if event == nil {
		return store.Event{}, errors.New("the event is nil")
	}
	topic, err := s.topic(event)
	if err != nil {
		return store.Event{}, err
	}
	msg, err := s.marshaler.Marshal(event)
	if err != nil {
		return store.Event{}, fmt.Errorf("event %q: %w", topic, err)
	}
	if keyed, ok := event.(interface{ EventKey() string }); ok {
		msg.Metadata.Set(store.KeyMetadata, keyed.EventKey())
	}
	if known, ok := event.(interface{ EventID() string }); ok && known.EventID() != "" {
		msg.UUID = known.EventID()
	}
	if cause := cqrs.OriginalMessageFromCtx(ctx); cause != nil {
		correlation := cause.Metadata.Get(pubsub.CorrelationIDMetadata)
		if correlation == "" {
			correlation = cause.UUID
		}
		for key, id := range map[string]string{pubsub.CorrelationIDMetadata: correlation, pubsub.CausationIDMetadata: cause.UUID} {
			if msg.Metadata.Get(key) == "" {
				msg.Metadata.Set(key, id)
			}
		}
	}
	e := store.Event{
		ID: msg.UUID, Topic: topic, Key: msg.Metadata.Get(store.KeyMetadata),
		Payload: msg.Payload, Metadata: msg.Metadata, Source: store.SourcePublish,
	}
	return e, e.Validate()
}

// topic is the event's name, by the marshaler.
func (s *settings) topic(event any) (string, error) {
	if name := s.marshaler.Name(event); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("event %T has no name: give it a method EventName() string, such as \"user.signed_up\", or use reprisetest.WithMarshaler with one that names events", event)
}

// newRun is a run before its first attempt.
func newRun(id int64, h cqrs.EventHandler, e store.Event) store.Run {
	return store.Run{ID: id, EventID: e.ID, Topic: e.Topic, Handler: h.HandlerName(), Status: store.Pending, Key: e.Key}
}
