package pubsub

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// Transport carries events from process to process in place of the database: a
// broker, through a Watermill publisher and subscribers. pubsub/kafka and
// pubsub/nats make one; of any other Watermill Pub/Sub, fill in the fields.
type Transport struct {
	// Name is what events that come this way have as their Source, such as
	// "kafka".
	Name string

	// Mode is how events are published whose topic does not say; default Direct.
	Mode Mode

	// Publisher connects to the broker. It is called until it has succeeded
	// once, never twice at a time; what it returns must be safe for concurrent
	// use, and its Publish return when the broker has the message for good.
	Publisher func() (message.Publisher, error)

	// Subscriber returns the subscriber of a handler, whose name is its consumer
	// group: of several processes that serve it, one gets each message. It need
	// not connect before Subscribe.
	Subscriber func(handler string) (message.Subscriber, error)

	// Topic reports a name that no topic of the broker can have; default: of none.
	// What it reports is refused by the bus's Handle, and by a publish that goes to
	// the broker or the outbox.
	Topic func(topic string) error

	// Identify returns the id of a message without a UUID; see InboxConfig.
	Identify func(msg *message.Message) string

	// Refused says of an error of the publisher that it is about that message,
	// and will not go away, such as "too large"; default: of none.
	Refused func(err error) bool
}

// ValidTopic reports a name that no topic can have, here or at the broker.
func (t *Transport) ValidTopic(topic string) error {
	if err := store.ValidTopic(topic); err != nil || t == nil || t.Topic == nil {
		return err
	}
	if err := t.Topic(topic); err != nil {
		return fmt.Errorf("%s takes no topic of that name: %w", t.Name, err)
	}
	return nil
}

// Mode is how an event is published.
type Mode string

// The modes.
const (
	// Direct sends an event to the broker and, when that fails, writes it into
	// the outbox, from where it is sent as soon as the broker is back.
	Direct Mode = "direct"

	// ViaOutbox writes every event into the outbox first.
	ViaOutbox Mode = "outbox"

	// Hold writes every event into the outbox, where it stays until somebody
	// releases it.
	Hold Mode = "hold"

	// ViaDatabase publishes as without a transport, while what the transport
	// brings is still received: the first step of a move, and the last one back.
	ViaDatabase Mode = "database"
)

// Modes returns all modes.
func Modes() []Mode { return []Mode{Direct, ViaOutbox, Hold, ViaDatabase} }

// ParseMode returns the mode of that name; "" is none.
func ParseMode(name string) (Mode, error) {
	var names []string
	for _, m := range Modes() {
		if string(m) == name {
			return m, nil
		}
		names = append(names, string(m))
	}
	if name == "" {
		return "", nil
	}
	return "", fmt.Errorf("mode %q: want %s", name, strings.Join(names, ", "))
}

// Validate reports every field that has no meaning.
func (t *Transport) Validate() error {
	var errs []error
	switch t.Name {
	case "":
		errs = append(errs, errors.New(`field Name is empty: name the broker, such as "kafka"`))
	case store.SourcePublish, store.SourceEdit:
		errs = append(errs, fmt.Errorf("field Name %q: it means something else, name the broker", t.Name))
	}
	if _, err := ParseMode(string(t.Mode)); err != nil {
		errs = append(errs, fmt.Errorf("field Mode: %w", err))
	}
	if t.Publisher == nil {
		errs = append(errs, errors.New("field Publisher is nil: want a function that connects to the broker"))
	}
	if t.Subscriber == nil {
		errs = append(errs, errors.New("field Subscriber is nil: want a function that returns a handler's subscriber"))
	}
	return errors.Join(errs...)
}
