package wire

import (
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Run is a run.
type Run struct {
	ID          int64        `json:"id"`
	Status      store.Status `json:"status"`
	View        string       `json:"view"` // of a PENDING run: see View
	Handler     string       `json:"handler"`
	Topic       string       `json:"topic"`
	Event       string       `json:"event"`
	Key         string       `json:"key"`
	Attempt     int          `json:"attempt"`
	Cycle       int          `json:"cycle"`
	Instance    string       `json:"instance"`
	Kind        store.Kind   `json:"error_kind"`
	Error       string       `json:"error"`
	Group       string       `json:"group"`
	Replay      int64        `json:"replay"`
	PublishedAt *time.Time   `json:"published_at"`
	DueAt       *time.Time   `json:"due_at"` // null also for a run that is held
	StartedAt   *time.Time   `json:"started_at"`
	FinishedAt  *time.Time   `json:"finished_at"`
}

// NewRun returns the shape of a run. now is the database's time.
func NewRun(r store.Run, now time.Time) Run {
	due := timeOf(r.DueAt)
	if r.Held() {
		due = nil
	}
	return Run{
		ID: r.ID, Status: r.Status, View: View(r, now), Handler: r.Handler, Topic: r.Topic, Event: r.EventID, Key: r.Key,
		Attempt: r.Attempt, Cycle: r.Cycle, Instance: r.Instance, Kind: r.ErrorKind, Error: r.Error, Group: r.Fingerprint,
		Replay: r.ReplayID, PublishedAt: timeOf(r.PublishedAt), DueAt: due, StartedAt: timeOf(r.StartedAt), FinishedAt: timeOf(r.FinishedAt),
	}
}

// Runs is a page of runs.
type Runs struct {
	Runs []Run  `json:"runs"`
	Next *int64 `json:"next"` // store.Filter.Before of the next page; null: this is the last page
}

// NewRuns returns the shape of a page. next is store.Page.Next.
func NewRuns(runs []store.Run, next int64, now time.Time) Runs {
	return Runs{runsOf(runs, now), numberOf(next)}
}

func runsOf(runs []store.Run, now time.Time) []Run {
	return listOf(runs, func(r store.Run) Run { return NewRun(r, now) })
}

// The views of a PENDING run.
const (
	Due       = "due"
	Scheduled = "scheduled" // due later
	Running   = "running"   // leased to an instance
	Held      = "held"      // by a paused operation
)

// View returns what a PENDING run waits for, by the database's time; "" for any other
// run.
func View(r store.Run, now time.Time) string {
	switch {
	case r.Status != store.Pending:
		return ""
	case r.Held():
		return Held
	case r.DueAt.IsZero():
		return Running
	case r.DueAt.After(now):
		return Scheduled
	}
	return Due
}
