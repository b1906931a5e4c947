package wire

import (
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Attempt is a failed or abandoned attempt.
type Attempt struct {
	Attempt    int        `json:"attempt"`
	Cycle      int        `json:"cycle"`
	Kind       store.Kind `json:"kind"`
	Message    string     `json:"message"`
	Stack      string     `json:"stack,omitempty"`
	Instance   string     `json:"instance"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

// NewAttempt returns the shape of an attempt.
func NewAttempt(a store.Attempt) Attempt {
	return Attempt{a.Attempt, a.Cycle, a.Kind, a.Message, a.Stack, a.Instance, timeOf(a.StartedAt), timeOf(a.FinishedAt)}
}
