package pubsub

import (
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// ErrTooLarge is returned for a message whose payload exceeds Config.MaxPayload or whose
// metadata exceeds MaxMetadata. Nothing is published.
var ErrTooLarge = errors.New("the message is too large")

// MaxMetadata is the maximum size in bytes of a message's metadata, keys and values
// together.
const MaxMetadata = 1 << 20

// checkSizes reports a message that is too large to be published. A message that a broker
// delivers to an Inbox is recorded whatever its size: refusing it would block the
// messages behind it.
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

// DefaultMaxPayload is the default of Config.MaxPayload, in bytes.
const DefaultMaxPayload = store.DefaultMaxPayload
