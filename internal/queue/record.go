package queue

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Record writes that a handler begins to work on an event from another transport: the
// event, unless it is known, and a run leased to the instance. The run is committed
// when Record returns.
//
// A redelivered event finds its run. A run that failed or is PENDING is taken up for
// another attempt; if it was leased, the lost lease is kept as an abandoned attempt. A
// run that succeeded or was discarded is ErrDone. With again set, a run that succeeded
// is taken up, too.
//
// Another event under a known id gets an id of its own, which is the run's EventID: an
// event with another payload, or one that Repeats the first.
func (q *Queue) Record(ctx context.Context, e store.Event, handler, instance string, again bool) (store.Run, error) {
	if err := e.Validate(); err != nil {
		return store.Run{}, err
	}
	if err := sqldb.ValidName("handler", handler); err != nil {
		return store.Run{}, err
	}
	if e.Source == "" || e.Source == store.SourcePublish {
		return store.Run{}, fmt.Errorf("record event %q: source %.255q: want the name of the subscriber that delivered it", e.ID, e.Source)
	}
	if err := sqldb.ValidName("instance", instance); err != nil {
		return store.Run{}, err
	}
	e.Source = sqldb.Printable(e.Source, sqldb.MaxName)
	lease, err := q.dialect.record(ctx, q, e, handler, instance, again)
	for other := (*takenError)(nil); errors.As(err, &other); {
		e = other.as
		lease, err = q.dialect.record(ctx, q, e, handler, instance, again)
	}
	run := store.Run{EventID: e.ID, Topic: e.Topic, Handler: handler, Status: store.Pending, Tries: 1, Key: e.Key, Instance: instance}
	if errors.Is(err, sql.ErrNoRows) {
		return run, fmt.Errorf("event %q, handler %q: %w", e.ID, handler, store.ErrDone)
	}
	if err != nil {
		return run, fmt.Errorf("record event %q for handler %q: %w", e.ID, handler, sqldb.RowError(err))
	}
	lease.fill(&run)
	return run, nil
}

// takenError says that another event has the event's id.
type takenError struct{ as store.Event } // the event under the id that it gets instead

func (e *takenError) Error() string {
	return fmt.Sprintf("the id is taken by another event, this one is %q", e.as.ID)
}

// RecordAgain takes up a run for another attempt that an instance had before, whatever
// its status; only a DISCARDED run is ErrDone. The run is committed when RecordAgain
// returns.
func (q *Queue) RecordAgain(ctx context.Context, was store.Run, instance string) (store.Run, error) {
	if err := sqldb.ValidName("instance", instance); err != nil {
		return was, err
	}
	if !sqldb.Keepable(was.Topic, was.EventID, was.Handler) {
		return was, fmt.Errorf("event %.255q, handler %.255q: %w", was.EventID, was.Handler, store.ErrNotFound)
	}
	lease, err := q.dialect.takeUp(ctx, q, store.EventID{Topic: was.Topic, ID: was.EventID}, was.Handler, instance, true)
	if errors.Is(err, sql.ErrNoRows) {
		return was, fmt.Errorf("event %q, handler %q: %w", was.EventID, was.Handler, store.ErrDone)
	}
	if err != nil {
		return was, fmt.Errorf("take up run %d again: %w", was.ID, err)
	}
	was.Status, was.Tries, was.Instance = store.Pending, 1, instance
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
	ErrorKind   store.Kind `db:"error_kind"`
	Error       string     `db:"error"`
	Fingerprint string     `db:"fingerprint"`
}

// fill copies the columns into the run.
func (t taken) fill(run *store.Run) {
	run.ID, run.Attempt, run.StartedAt, run.PublishedAt = t.ID, t.Attempt, t.StartedAt.Time, t.PublishedAt.Time
	run.ReplayID, run.ErrorKind, run.Error, run.Fingerprint = t.ReplayID, t.ErrorKind, t.Error, t.Fingerprint
}

// another compares e with the first event of its id. If they are two events, it returns
// e under an id of its own, and true.
func another(e, first store.Event) (store.Event, bool) {
	switch {
	case !bytes.Equal(first.Payload, e.Payload):
		return e.Renamed(), true
	case e.Repeats(first.Metadata):
		return e.Repeat(), true
	default:
		return e, false
	}
}
