package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Record writes down that a handler is about to work on an event which another
// transport delivered: the event, unless it is known, and a run leased to the
// instance. The run is committed when Record returns.
//
// A redelivered event finds its run: one that failed, or that somebody holds
// without an end, is taken up for another attempt (what was held is kept as an
// abandoned attempt). A run that has ended well or was discarded is ErrDone,
// unless again is set, which takes up a successful run too.
func (s *Store) Record(ctx context.Context, e Event, handler, instance string, again bool) (Run, error) {
	if err := e.Validate(); err != nil {
		return Run{}, err
	}
	if err := validName("handler", handler); err != nil {
		return Run{}, err
	}
	if e.Source == "" || e.Source == SourcePublish {
		return Run{}, fmt.Errorf("record event %q: source %q: want the name of the subscriber that delivered it", e.ID, e.Source)
	}
	run := Run{EventID: e.ID, Topic: e.Topic, Handler: handler, Status: Pending, Tries: 1, Key: e.Key, Instance: instance}
	lease, err := s.dialect.record(ctx, s, e, handler, instance, again)
	if errors.Is(err, sql.ErrNoRows) {
		return run, fmt.Errorf("event %q, handler %q: %w", e.ID, handler, ErrDone)
	}
	if err != nil {
		return run, fmt.Errorf("record event %q for handler %q: %w", e.ID, handler, rowError(err))
	}
	run.ID, run.Attempt, run.StartedAt, run.PublishedAt = lease.ID, lease.Attempt, lease.StartedAt.Time, lease.PublishedAt.Time
	run.ReplayID, run.ErrorKind, run.Error, run.Fingerprint = lease.ReplayID, lease.ErrorKind, lease.Error, lease.Fingerprint
	return run, nil
}

// taken is a run that was taken up for a delivery.
type taken struct {
	ID          int64   `db:"id"`
	Attempt     int     `db:"attempt"`
	StartedAt   instant `db:"started_at"`
	PublishedAt instant `db:"published_at"`
	ReplayID    int64   `db:"replay_id"`
	ErrorKind   Kind    `db:"error_kind"`
	Error       string  `db:"error"`
	Fingerprint string  `db:"fingerprint"`
}
