package middleware

import (
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
)

// Metadata that Watermill's PoisonQueue sets on the message it publishes.
const (
	poisonedReason     = "reason_poisoned"
	poisonedTopic      = "topic_poisoned"
	poisonedHandler    = "handler_poisoned"
	poisonedSubscriber = "subscriber_poisoned"
)

// watchPoison returns a function to be called after the handler. It reports whether a
// PoisonQueue has taken the message and hidden the handler's error. A message that was
// poisoned earlier and came back to its handler has the same metadata, so one entry is
// removed while the handler runs.
func watchPoison(msg *message.Message) (taken func() error) {
	ctx := msg.Context()
	here := func() bool {
		return msg.Metadata.Get(poisonedTopic) == message.SubscribeTopicFromCtx(ctx) &&
			msg.Metadata.Get(poisonedHandler) == message.HandlerNameFromCtx(ctx)
	}
	before, back := msg.Metadata[poisonedSubscriber]
	if back = back && here(); back {
		delete(msg.Metadata, poisonedSubscriber)
	}
	return func() error {
		if _, now := msg.Metadata[poisonedSubscriber]; now && here() {
			return handlers.Permanent(errors.New("a poison queue inside middleware.Record has taken the message: " + msg.Metadata.Get(poisonedReason)))
		}
		if back {
			msg.Metadata[poisonedSubscriber] = before
		}
		return nil
	}
}
