package wire

import (
	"encoding/json"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Handler is a subscription of a handler.
type Handler struct {
	Handler    string          `json:"handler"`
	Topic      string          `json:"topic"`
	Instances  int             `json:"instances"`
	Due        store.Count     `json:"due"`
	OldestDue  *time.Time      `json:"oldest_due_at"`
	Since      *time.Time      `json:"since"`
	LastSeenAt *time.Time      `json:"last_seen_at"`
	Policy     json.RawMessage `json:"policy"`
}

// NewHandler returns the shape of a subscription.
func NewHandler(s store.Subscribed) Handler {
	return Handler{s.Handler, s.Topic, s.Instances, s.Due, timeOf(s.OldestDue), timeOf(s.Since), timeOf(s.LastSeenAt), s.Policy}
}

// Handlers is all subscriptions.
type Handlers struct {
	Handlers []Handler `json:"handlers"`
}

// NewHandlers returns the shape of all subscriptions.
func NewHandlers(subscribed []store.Subscribed) Handlers {
	return Handlers{listOf(subscribed, NewHandler)}
}
