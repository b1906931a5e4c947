package store

import (
	"cmp"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Event is a fact that was published on a topic. Its row is never rewritten.
type Event struct {
	ID          string            // the message's UUID; unique on its topic
	Topic       string            // what handlers subscribe to
	Key         string            // what the event is about; "" when the event names nothing
	Payload     []byte            // the bytes exactly as they were published
	Metadata    map[string]string // the message's metadata
	Source      string            // SourcePublish, SourceEdit, or the name of the subscriber that delivered the event
	Amends      string            // id of the event that this event corrects; "" for none
	PublishedAt time.Time         // by the database's clock; set when the event is stored

	// Declared tells a writer that the id alone identifies the event, whatever its
	// metadata: see Repeats. It is not stored.
	Declared bool
}

// SourcePublish is the Source of an event that was published into this database. An
// event that another transport delivered has another Source.
const SourcePublish = "publish"

// SourceEdit is the Source of an event that an operator made to correct another event,
// which it Amends. Only one handler gets it.
const SourceEdit = "edit"

// KeyMetadata is the metadata field of a message that carries its event's key.
const KeyMetadata = "key"

// DefaultMaxPayload is the default limit of a payload, in bytes.
const DefaultMaxPayload = 16 << 20

// EventID is an event's identity.
type EventID struct {
	Topic string
	ID    string
}

// EventID returns the event's identity.
func (e *Event) EventID() EventID { return EventID{Topic: e.Topic, ID: e.ID} }

// Compare orders events by topic, then by id, as bytes.
func (id EventID) Compare(other EventID) int {
	return cmp.Or(cmp.Compare(id.Topic, other.Topic), cmp.Compare(id.ID, other.ID))
}

// Validate reports every field that the database could not keep unchanged.
func (e *Event) Validate() error {
	var errs []error
	if err := sqldb.ValidName("id", e.ID); err != nil {
		errs = append(errs, err)
	}
	if err := ValidTopic(e.Topic); err != nil {
		errs = append(errs, err)
	}
	if e.Key != "" {
		if err := sqldb.ValidName("key", e.Key); err != nil {
			errs = append(errs, err)
		}
	}
	for k, v := range e.Metadata {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			errs = append(errs, fmt.Errorf("metadata %.255q: want valid UTF-8; binary data belongs in the payload", k))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("event %.255q: %w", e.ID, errors.Join(errs...))
	}
	return nil
}

// ValidTopic returns an error for a name that no topic can have. Subscribing and
// publishing both use this check. A topic is 1 to 255 bytes of UTF-8 without control
// characters, and not AllTopics.
func ValidTopic(topic string) error {
	if topic == AllTopics {
		return fmt.Errorf("topic %q stands for all topics: want a name such as \"user.signed_up\"", topic)
	}
	return sqldb.ValidName("topic", topic)
}

// Correction says what an event should have said. A nil field leaves the event's value
// unchanged.
type Correction struct {
	Payload  []byte
	Metadata map[string]string

	MaxPayload int // bytes; default 16 MiB, or the size of the event's payload if that is larger
}

// ErrNotEnded is returned for a run that may still end without an operator.
var ErrNotEnded = errors.New("the run has not ended")
