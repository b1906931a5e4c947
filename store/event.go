package store

import (
	"cmp"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Event is a fact that was published on a topic. It is written once and never
// rewritten.
type Event struct {
	ID          string            // the message's UUID; unique on its topic
	Topic       string            // what handlers subscribe to
	Key         string            // what the event is about, "" when it does not say
	Payload     []byte            // returned byte for byte as it was published
	Metadata    map[string]string // the message's metadata
	Source      string            // SourcePublish, SourceEdit, or the subscriber that the event arrived through
	Amends      string            // id of the event that this one corrects; "" for none
	PublishedAt time.Time         // by the database's clock; set when it is stored

	// Declared says of an event that is written that its id alone tells which
	// event it is, whatever its metadata says: see Repeats. It is not stored.
	Declared bool
}

// SourcePublish is the Source of an event that was published into this
// database, as opposed to one that another transport delivered.
const SourcePublish = "publish"

// SourceEdit is the Source of an event that an operator made of another one,
// which it Amends. Only one handler gets it.
const SourceEdit = "edit"

// KeyMetadata is where a message carries its event's key.
const KeyMetadata = "key"

// DefaultMaxPayload is how many bytes a payload may have, unless something else
// says more.
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

// Validate reports what the database could not keep as it is.
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

// ValidTopic reports a name that no topic can have. It decides for everything
// that takes a topic: whoever may subscribe to one may publish on it, and the
// other way round. A topic is 1 to 255 bytes of UTF-8 without control characters,
// and not AllTopics.
func ValidTopic(topic string) error {
	if topic == AllTopics {
		return fmt.Errorf("topic %q stands for all topics: want a name such as \"user.signed_up\"", topic)
	}
	return sqldb.ValidName("topic", topic)
}

// Correction is what an event should have said. A nil field is as it was.
type Correction struct {
	Payload  []byte
	Metadata map[string]string

	MaxPayload int // bytes; default 16 MiB, or as many as the event has
}

// ErrNotEnded is returned for a run that may still end by itself.
var ErrNotEnded = errors.New("the run has not ended")
