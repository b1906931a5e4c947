package store

import (
	"fmt"
	"slices"
	"time"
)

// Status is the status of a run. Its values are those in the tables.
type Status string

// The statuses of a run. Running, scheduled and abandoned are views of
// Pending: see Run.
const (
	Pending   Status = "PENDING"   // due, waiting for its time, or leased to an instance
	Success   Status = "SUCCESS"   // the handler returned without error
	Failed    Status = "FAILED"    // no automatic attempt is left; a person must look
	Discarded Status = "DISCARDED" // closed by an operator without success
)

// Statuses lists every status.
func Statuses() []Status { return []Status{Pending, Success, Failed, Discarded} }

// ParseStatus accepts exactly the values that the tables use.
func ParseStatus(s string) (Status, error) {
	if !slices.Contains(Statuses(), Status(s)) {
		return "", fmt.Errorf("status %.255q: want one of %v", s, Statuses())
	}
	return Status(s), nil
}

// Run is one handler's work on one event. It is unique per (event, handler); Topic and
// EventID identify the event. All times are by the database's clock. A Pending run is
// due when DueAt is in the past, scheduled when DueAt is in the future, and leased to
// Instance when DueAt is zero.
type Run struct {
	ID         int64 // the number that people type
	EventID    string
	Topic      string
	Handler    string
	Status     Status
	Attempt    int    // number of the current or last attempt; each lease adds 1, and no number is used twice
	Tries      int    // attempts of the current cycle that count against the policy, including the current attempt
	Cycle      int    // cycles before the current one
	Key        string // the event's key
	Instance   string // the instance that holds the run, or held it when the run ended
	DueAt      time.Time
	StartedAt  time.Time // of the current or last attempt
	FinishedAt time.Time // zero while Pending
	// ErrorKind, Error and Fingerprint describe the last failure. A success empties
	// them.
	ErrorKind   Kind
	Error       string
	Fingerprint string
	ReplayID    int64     // the last operation that took the run up to run it again; 0 for none
	PublishedAt time.Time // of the event
}

// Attempt is one invocation of a handler that failed or was abandoned, or one failed
// call of a callback of its policy. A success leaves no Attempt: the Run records it.
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

// ChangedAt returns when the run last finished, else when it started, else when its
// event was published.
func (r Run) ChangedAt() time.Time {
	for _, t := range []time.Time{r.FinishedAt, r.StartedAt} {
		if !t.IsZero() {
			return t
		}
	}
	return r.PublishedAt
}

// FarAway is the DueAt of the waiting runs of a paused operation.
var FarAway = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// Held reports whether the run waits for a paused operation to be resumed.
func (r Run) Held() bool { return r.Status == Pending && r.DueAt.Equal(FarAway) }
