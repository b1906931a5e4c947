package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Record writes down that a handler is about to work on an event which another
// transport delivered: the event, unless it is known, and a run leased to the
// instance. The run is committed when Record returns.
//
// A redelivered event finds its run: one that failed, or that somebody holds
// without an end, is taken up for another attempt (what was held is kept as an
// abandoned attempt). A run that has ended well or was discarded is ErrDone,
// unless again is set, which takes up a successful run too.
//
// Another event under the id of one that is there gets an id of its own, which is
// the EventID of the run: one with another payload, and one that Repeats the first.
func (s *Store) Record(ctx context.Context, e Event, handler, instance string, again bool) (Run, error) {
	if err := e.Validate(); err != nil {
		return Run{}, err
	}
	if err := validName("handler", handler); err != nil {
		return Run{}, err
	}
	if e.Source == "" || e.Source == SourcePublish {
		return Run{}, fmt.Errorf("record event %q: source %.255q: want the name of the subscriber that delivered it", e.ID, e.Source)
	}
	if err := validName("instance", instance); err != nil {
		return Run{}, err
	}
	e.Source = printable(e.Source, maxName)
	lease, err := s.dialect.record(ctx, s, e, handler, instance, again)
	for other := (*takenError)(nil); errors.As(err, &other); {
		e = other.as
		lease, err = s.dialect.record(ctx, s, e, handler, instance, again)
	}
	run := Run{EventID: e.ID, Topic: e.Topic, Handler: handler, Status: Pending, Tries: 1, Key: e.Key, Instance: instance}
	if errors.Is(err, sql.ErrNoRows) {
		return run, fmt.Errorf("event %q, handler %q: %w", e.ID, handler, ErrDone)
	}
	if err != nil {
		return run, fmt.Errorf("record event %q for handler %q: %w", e.ID, handler, rowError(err))
	}
	lease.fill(&run)
	return run, nil
}

// takenError says that an event's id is that of another event.
type takenError struct{ as Event } // the event under the id that it gets instead

func (e *takenError) Error() string {
	return fmt.Sprintf("the id is taken by another event, this one is %q", e.as.ID)
}

// RecordAgain takes up a run that the instance, or another one, had before, for
// another attempt, whatever has become of it; only DISCARDED it is ErrDone. The run
// is committed when RecordAgain returns.
func (s *Store) RecordAgain(ctx context.Context, was Run, instance string) (Run, error) {
	if err := validName("instance", instance); err != nil {
		return was, err
	}
	if !keepable(was.Topic, was.EventID, was.Handler) {
		return was, fmt.Errorf("event %.255q, handler %.255q: %w", was.EventID, was.Handler, ErrNotFound)
	}
	lease, err := s.dialect.takeUp(ctx, s, EventID{Topic: was.Topic, ID: was.EventID}, was.Handler, instance, true)
	if errors.Is(err, sql.ErrNoRows) {
		return was, fmt.Errorf("event %q, handler %q: %w", was.EventID, was.Handler, ErrDone)
	}
	if err != nil {
		return was, fmt.Errorf("take up run %d again: %w", was.ID, err)
	}
	was.Status, was.Tries, was.Instance = Pending, 1, instance
	lease.fill(&was)
	return was, nil
}

// taken is a run that was taken up for a delivery.
type taken struct {
	ID          int64      `db:"id"`
	Attempt     int        `db:"attempt"`
	StartedAt   sqldb.Time `db:"started_at"`
	PublishedAt sqldb.Time `db:"published_at"`
	ReplayID    int64      `db:"replay_id"`
	ErrorKind   Kind       `db:"error_kind"`
	Error       string     `db:"error"`
	Fingerprint string     `db:"fingerprint"`
}

// fill tells the run what the database has of it.
func (t taken) fill(run *Run) {
	run.ID, run.Attempt, run.StartedAt, run.PublishedAt = t.ID, t.Attempt, t.StartedAt.Time, t.PublishedAt.Time
	run.ReplayID, run.ErrorKind, run.Error, run.Fingerprint = t.ReplayID, t.ErrorKind, t.Error, t.Fingerprint
}
