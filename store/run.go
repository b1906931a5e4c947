package store

import (
	"fmt"
	"slices"
	"time"
)

// Status is where a run stands, in the words that the tables use.
type Status string

// The statuses of a run. Running, scheduled and abandoned are views of
// Pending: see Run.
const (
	Pending   Status = "PENDING"   // due, waiting for its time, or in an instance's hands
	Success   Status = "SUCCESS"   // the handler returned without error
	Failed    Status = "FAILED"    // no automatic attempt is left; a person must look
	Discarded Status = "DISCARDED" // closed by an operator without success
)

// Statuses lists every status.
func Statuses() []Status { return []Status{Pending, Success, Failed, Discarded} }

// ParseStatus accepts the words that the tables use, and nothing else.
func ParseStatus(s string) (Status, error) {
	if !slices.Contains(Statuses(), Status(s)) {
		return "", fmt.Errorf("status %q: want one of %v", s, Statuses())
	}
	return Status(s), nil
}

// Run is one handler's work on one event; there is one for each (event,
// handler), where the event is Topic and EventID. A Pending run is due when DueAt is in the past, scheduled when it
// is in the future, and leased to Instance when it is zero.
type Run struct {
	ID         int64 // what people type
	EventID    string
	Topic      string
	Handler    string
	Status     Status
	Attempt    int    // attempts begun so far; the number of the current or last one
	Cycle      int    // cycles begun before the current one
	Key        string // the event's key
	Instance   string // who holds the run, or held it when it ended
	DueAt      time.Time
	StartedAt  time.Time // of the current or last attempt
	FinishedAt time.Time // zero while Pending
	ErrorKind  Kind      // of the last failure, until the run succeeds
	Error      string    // message of the last failure, until the run succeeds
	ReplayID   int64     // the last replay that took the run up; 0 when none did
}

// Attempt is one invocation of a handler that failed or was abandoned. What
// succeeded leaves no Attempt: the Run says it.
type Attempt struct {
	RunID      int64
	Attempt    int
	Cycle      int
	Kind       Kind
	Message    string
	Stack      string // of a panic
	Instance   string
	StartedAt  time.Time
	FinishedAt time.Time
}

// Kind is the kind of a failure.
type Kind string

// The kinds of failure.
const (
	KindError       Kind = "error"       // the handler returned an error
	KindPanic       Kind = "panic"       // the handler panicked
	KindUndecodable Kind = "undecodable" // the payload is not what the handler takes
	KindAbandoned   Kind = "abandoned"   // the process died, or lost the run, while the handler ran
	KindInterrupted Kind = "interrupted" // the process shut down before the handler had ended
	KindNack        Kind = "nack"        // the message was nacked and nobody said why
	KindLost        Kind = "lost"        // the event is no longer in the database, or its metadata is unreadable
)

// Failure is why an attempt did not succeed.
type Failure struct {
	Kind    Kind
	Message string
	Stack   string
}
