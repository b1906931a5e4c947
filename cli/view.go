package cli

import (
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// The views of a PENDING run.
const (
	viewDue       = "due"
	viewScheduled = "scheduled"
	viewRunning   = "running"
	viewHeld      = "held"
)

// viewOf returns what a PENDING run waits for, by the database's clock.
func viewOf(r store.Run, now time.Time) string {
	switch {
	case r.Status != store.Pending:
		return ""
	case r.Held():
		return viewHeld
	case r.DueAt.IsZero():
		return viewRunning
	case r.DueAt.After(now):
		return viewScheduled
	}
	return viewDue
}

// statusOf returns a run's status for people.
func statusOf(r store.Run, now time.Time) cell {
	view := viewOf(r, now)
	if view == viewScheduled {
		view += " " + at(r.DueAt, now)
	}
	return statusCell(r.Status, view)
}

func statusCell(status store.Status, view string) cell {
	text := string(status)
	if view != "" {
		text = fmt.Sprintf("%s (%s)", status, view)
	}
	return cell{text, map[store.Status]colour{store.Failed: red, store.Success: green, store.Pending: yellow, store.Discarded: plain}[status]}
}

// runJSON is a run in JSON.
type runJSON struct {
	ID          int64        `json:"id"`
	Status      store.Status `json:"status"`
	View        string       `json:"view"`
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
	DueAt       *time.Time   `json:"due_at"`
	StartedAt   *time.Time   `json:"started_at"`
	FinishedAt  *time.Time   `json:"finished_at"`
}

func newRunJSON(r store.Run, now time.Time) runJSON {
	due := utc(r.DueAt)
	if r.Held() {
		due = nil
	}
	return runJSON{
		ID: r.ID, Status: r.Status, View: viewOf(r, now), Handler: r.Handler, Topic: r.Topic, Event: r.EventID, Key: r.Key,
		Attempt: r.Attempt, Cycle: r.Cycle, Instance: r.Instance, Kind: r.ErrorKind, Error: r.Error, Group: r.Fingerprint,
		Replay: r.ReplayID, PublishedAt: utc(r.PublishedAt), DueAt: due, StartedAt: utc(r.StartedAt), FinishedAt: utc(r.FinishedAt),
	}
}
