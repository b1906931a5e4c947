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
		return "", fmt.Errorf("status %.255q: want one of %v", s, Statuses())
	}
	return Status(s), nil
}

// Run is one handler's work on one event; there is one for each (event,
// handler), where the event is Topic and EventID. All times are by the
// database's clock. A Pending run is due when DueAt
// is in the past, scheduled when it is in the future, and leased to Instance
// when it is zero.
type Run struct {
	ID         int64 // what people type
	EventID    string
	Topic      string
	Handler    string
	Status     Status
	Attempt    int    // number of the current or last attempt: it counts how often the run was leased, and is never given twice
	Tries      int    // attempts of the current cycle that count against the policy, the current one included
	Cycle      int    // cycles before the current one
	Key        string // the event's key
	Instance   string // who holds the run, or held it when it ended
	DueAt      time.Time
	StartedAt  time.Time // of the current or last attempt
	FinishedAt time.Time // zero while Pending
	// ErrorKind, Error and Fingerprint are those of the last failure, until
	// the run succeeds.
	ErrorKind   Kind
	Error       string
	Fingerprint string
	ReplayID    int64     // the last operation that took the run up to run it; 0 when none did
	PublishedAt time.Time // of the event
}

// Attempt is one invocation of a handler that failed or was abandoned, or one
// of a callback of its policy that failed. What succeeded leaves no Attempt:
// the Run says it.
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

// FarAway is when the runs of a paused operation are due.
var FarAway = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// Held says whether the run waits for a paused operation to be resumed.
func (r Run) Held() bool { return r.Status == Pending && r.DueAt.Equal(FarAway) }
