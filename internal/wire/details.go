package wire

import (
	"time"

	"github.com/reprise-bus/reprise/store"
)

// RunDetails is everything on record about a run.
type RunDetails struct {
	Run        Run         `json:"run"`
	Event      *Event      `json:"event"` // null: no longer in the database
	Attempts   []Attempt   `json:"attempts"`
	Earlier    int64       `json:"earlier_attempts"` // number of attempts before these
	Operations []Operation `json:"operations"`       // that took the run up or created it
}

// NewRunDetails returns the shape of a run with its last attempts, without its event.
// earlier is the number of attempts before these.
func NewRunDetails(r store.Run, attempts []store.Attempt, earlier int64, operations []store.Operation, now time.Time) RunDetails {
	return RunDetails{Run: NewRun(r, now), Attempts: listOf(attempts, NewAttempt), Earlier: earlier, Operations: listOf(operations, NewOperation)}
}

// EventDetails is everything on record about an event.
type EventDetails struct {
	Event Event `json:"event"`
	Runs  []Run `json:"runs"`
}

// NewEventDetails returns the shape of an event with its runs.
func NewEventDetails(e Event, runs []store.Run, now time.Time) EventDetails {
	return EventDetails{e, runsOf(runs, now)}
}

// MessageDetails is everything on record about a message of the outbox.
type MessageDetails struct {
	Message   Message    `json:"message"`
	Event     Event      `json:"event"`
	Operation *Operation `json:"operation"` // the last operation on it; null: there is none
}

// NewMessageDetails returns the shape of a message with its event. last may be nil.
func NewMessageDetails(o store.Outgoing, e Event, last *store.Operation) MessageDetails {
	details := MessageDetails{Message: NewMessage(o), Event: e}
	if last != nil {
		operation := NewOperation(*last)
		details.Operation = &operation
	}
	return details
}
