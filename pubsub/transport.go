package pubsub

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// Transport carries events between processes instead of the database: a broker, through a
// Watermill publisher and subscribers. pubsub/kafka and pubsub/nats make one. For any
// other Watermill Pub/Sub, fill in the fields.
type Transport struct {
	// Name is the Source of events that the transport delivers, such as "kafka".
	Name string

	// Mode is how events are published on topics without a mode of their own; default
	// Direct.
	Mode Mode

	// Publisher connects to the broker. It is called until it has succeeded once, never
	// concurrently. The publisher must be safe for concurrent use, and its Publish must
	// return only when the broker has stored the message.
	Publisher func() (message.Publisher, error)

	// Subscriber returns the subscriber of a handler. The handler's name is its consumer
	// group: of the processes that serve the handler, one gets each message. The
	// subscriber need not connect before Subscribe.
	Subscriber func(handler string) (message.Subscriber, error)

	// Topic returns an error for a name that no topic of the broker can have. Default:
	// every name is allowed. The bus's Handle, and a publish to the broker or the outbox,
	// return this error.
	Topic func(topic string) error

	// Identify returns the id of a message without a UUID; see InboxConfig.
	Identify func(msg *message.Message) string

	// Refused reports whether an error of the publisher is about that message and will
	// not go away, such as "too large". Default: no error is.
	Refused func(err error) bool
}

// ValidTopic returns an error for a name that no topic can have, here or at the broker.
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
	// Direct sends an event to the broker. If that fails, the event goes into the outbox
	// and is sent when the broker is back.
	Direct Mode = "direct"

	// ViaOutbox writes every event into the outbox first.
	ViaOutbox Mode = "outbox"

	// Hold writes every event into the outbox, where it stays until an operator releases
	// it.
	Hold Mode = "hold"

	// ViaDatabase publishes as without a transport, while messages of the transport are
	// still received. It is the first step of a move to a broker, and the last step back.
	ViaDatabase Mode = "database"
)

// Modes returns all modes.
func Modes() []Mode { return []Mode{Direct, ViaOutbox, Hold, ViaDatabase} }

// ParseMode returns the mode of that name. For "" it returns "".
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

// Validate reports every invalid field.
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
