package kafka

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/IBM/sarama"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// reservedError is the error of metadata that no message can have.
type reservedError struct{ error }

func (e reservedError) Unwrap() error { return e.error }

// marshaler is watermill-kafka's, with the event's key as Kafka's key.
type marshaler struct{}

func (marshaler) Marshal(topic string, msg *message.Message) (*sarama.ProducerMessage, error) {
	out, err := watermillkafka.DefaultMarshaler{}.Marshal(topic, msg)
	if err != nil {
		return nil, reservedError{err}
	}
	if key := msg.Metadata.Get(store.KeyMetadata); key != "" {
		out.Key = sarama.StringEncoder(key)
	}
	return out, nil
}

// unmarshal returns the message, whatever its content.
func unmarshal(from *sarama.ConsumerMessage) *message.Message {
	uuid := ""
	metadata := make(message.Metadata, len(from.Headers)+1)
	for _, h := range from.Headers {
		if name := string(h.Key); name == watermillkafka.UUIDHeaderKey {
			uuid = string(h.Value)
		} else {
			metadata[name] = string(h.Value)
		}
	}
	if uuid == "" {
		uuid = fmt.Sprintf("%s/%d/%d", from.Topic, from.Partition, from.Offset)
	}
	if key := string(from.Key); metadata[store.KeyMetadata] == "" && isKey(key) {
		metadata[store.KeyMetadata] = key
	}
	msg := message.NewMessage(uuid, from.Value)
	msg.Metadata = metadata
	return msg
}

// isKey reports whether an event can have the key.
func isKey(key string) bool {
	const longest = 255
	return key != "" && len(key) <= longest && utf8.ValidString(key) && !strings.ContainsFunc(key, unicode.IsControl)
}
