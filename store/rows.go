package store

import (
	"encoding/json"
	"fmt"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// The rows of the databases, and their conversion to the types of this package.

// EventOf converts a row to an event.
func EventOf(r sqldb.EventRow) (Event, error) {
	e := Event{ID: r.ID, Topic: r.Topic, Key: r.Key, Payload: r.Content(), Source: r.Source, Amends: r.Amends, PublishedAt: r.PublishedAt.Time}
	if len(r.Metadata) > 0 {
		if err := json.Unmarshal(r.Metadata, &e.Metadata); err != nil {
			return e, fmt.Errorf("event %q: metadata in the database: %w", r.ID, err)
		}
	}
	return e, nil
}

const runColumns = `r.id, r.event_id, r.topic, r.handler, r.status, r.attempt, r.tries, r.cycle, r.key,
	coalesce(r.instance, '') AS instance, r.due_at, r.started_at, r.finished_at,
	coalesce(r.error_kind, '') AS error_kind, coalesce(r.error, '') AS error,
	coalesce(r.fingerprint, '') AS fingerprint, coalesce(r.replay_id, 0) AS replay_id, r.published_at`

type runRow struct {
	ID          int64      `db:"id"`
	EventID     string     `db:"event_id"`
	Topic       string     `db:"topic"`
	Handler     string     `db:"handler"`
	Status      Status     `db:"status"`
	Attempt     int        `db:"attempt"`
	Tries       int        `db:"tries"`
	Cycle       int        `db:"cycle"`
	Key         string     `db:"key"`
	Instance    string     `db:"instance"`
	DueAt       sqldb.Time `db:"due_at"`
	StartedAt   sqldb.Time `db:"started_at"`
	FinishedAt  sqldb.Time `db:"finished_at"`
	ErrorKind   Kind       `db:"error_kind"`
	Error       string     `db:"error"`
	Fingerprint string     `db:"fingerprint"`
	ReplayID    int64      `db:"replay_id"`
	PublishedAt sqldb.Time `db:"published_at"`
}

func (r runRow) run() Run {
	return Run{
		ID: r.ID, EventID: r.EventID, Topic: r.Topic, Handler: r.Handler, Status: r.Status,
		Attempt: r.Attempt, Tries: r.Tries, Cycle: r.Cycle, Key: r.Key, Instance: r.Instance,
		DueAt: r.DueAt.Time, StartedAt: r.StartedAt.Time, FinishedAt: r.FinishedAt.Time,
		ErrorKind: r.ErrorKind, Error: r.Error, Fingerprint: r.Fingerprint, ReplayID: r.ReplayID, PublishedAt: r.PublishedAt.Time,
	}
}

type attemptRow struct {
	RunID      int64      `db:"run_id"`
	Attempt    int        `db:"attempt"`
	Cycle      int        `db:"cycle"`
	Kind       Kind       `db:"kind"`
	Message    string     `db:"message"`
	Stack      string     `db:"stack"`
	Instance   string     `db:"instance"`
	StartedAt  sqldb.Time `db:"started_at"`
	FinishedAt sqldb.Time `db:"finished_at"`
}

func (a attemptRow) attempt() Attempt {
	return Attempt{
		RunID: a.RunID, Attempt: a.Attempt, Cycle: a.Cycle, Kind: a.Kind, Message: a.Message, Stack: a.Stack,
		Instance: a.Instance, StartedAt: a.StartedAt.Time, FinishedAt: a.FinishedAt.Time,
	}
}
