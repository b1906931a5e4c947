package wire

import (
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Topic is the application's declaration of a topic.
type Topic struct {
	Topic       string     `json:"topic"`
	Transport   string     `json:"transport"` // "" is the database
	Mode        string     `json:"mode"`
	Manual      bool       `json:"manual"`
	Description string     `json:"description"`
	DeclaredAt  *time.Time `json:"declared_at"`
}

// NewTopic returns the shape of a declaration.
func NewTopic(t store.Topic) Topic {
	return Topic{t.Topic, t.Transport, t.Mode, t.Manual, t.Description, timeOf(t.DeclaredAt)}
}

// Topics is all declarations.
type Topics struct {
	Topics []Topic `json:"topics"`
}

// NewTopics returns the shape of all declarations.
func NewTopics(topics []store.Topic) Topics { return Topics{listOf(topics, NewTopic)} }
