package pubsub

import (
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// ErrTooLarge is returned for a message with more payload than
// Config.MaxPayload, or more metadata than MaxMetadata. Nothing is published.
var ErrTooLarge = errors.New("the message is too large")

// MaxMetadata is how many bytes the keys and values of a message's metadata may
// have together.
const MaxMetadata = 1 << 20

// checkSizes reports a message that is too large to be published. What a broker
// has delivered to an Inbox is recorded whatever its size: refusing it would
// block the messages behind it.
func (c *Config) checkSizes(topic string, messages []*message.Message) error {
	for _, msg := range messages {
		if len(msg.Payload) > c.MaxPayload {
			return fmt.Errorf("%w: event %q of topic %q has %d bytes of payload: want at most %d: keep large data elsewhere and publish where it is, or raise MaxPayload of bus.Config or pubsub.Config", ErrTooLarge, msg.UUID, topic, len(msg.Payload), c.MaxPayload)
		}
		metadata := 0
		for key, value := range msg.Metadata {
			metadata += len(key) + len(value)
		}
		if metadata > MaxMetadata {
			return fmt.Errorf("%w: event %q of topic %q has %d bytes of metadata: want at most %d: data belongs in the payload", ErrTooLarge, msg.UUID, topic, metadata, MaxMetadata)
		}
	}
	return nil
}

// DefaultMaxPayload is how many bytes the payload of a message may have that is
// published, unless it is told.
const DefaultMaxPayload = store.DefaultMaxPayload
