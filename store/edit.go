package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
)

// SourceEdit is the Source of an event that an operator made of another one,
// which it Amends. Only one handler gets it.
const SourceEdit = "edit"

// Correction is what an event should have said. A nil field is as it was.
type Correction struct {
	Payload  []byte
	Metadata map[string]string

	MaxPayload int // bytes; default 16 MiB, or as many as the event has
}

// ErrNotEnded is returned for a run that may still end by itself.
var ErrNotEnded = errors.New("the run has not ended")

// Edit gives the handler of a run that is FAILED or DISCARDED a corrected event
// instead: it writes a new event, which amends the run's, creates a due run of
// this handler alone for it, and makes the old run DISCARDED, all or nothing.
// History stays as it was. It returns the operation, and the new run.
//
// A run that is PENDING is ErrNotEnded, an unknown one ErrNotFound. A run that
// succeeded, a correction that corrects nothing and a handler without a
// subscription are errors, too.
func (s *Store) Edit(ctx context.Context, runID int64, c Correction, by, reason string) (o Operation, run Run, err error) {
	o = Operation{Kind: Editing, RequestedBy: by, Reason: reason, Selection: Filter{IDs: []int64{runID}}, Total: Count{N: 1}}
	if err := o.Validate(); err != nil {
		return o, run, err
	}
	asked := o
	err = s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		var row runRow
		err := tx.GetContext(ctx, &row, s.db.SQL(`SELECT `+runColumns+` FROM reprise.handler_runs r WHERE r.id = $1 FOR UPDATE`), runID)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return ErrNotFound
		case err != nil:
			return err
		case row.Status == Pending:
			return ErrNotEnded
		case row.Status == Success:
			return fmt.Errorf("it is %s: want %s or %s", row.Status, Failed, Discarded)
		}
		var served bool
		if err := tx.GetContext(ctx, &served, s.db.SQL(`
			SELECT EXISTS (SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2)`), row.Topic, row.Handler); err != nil {
			return err
		}
		if !served {
			return fmt.Errorf("no subscription for handler %q: register it with the bus", row.Handler)
		}
		was, err := s.event(ctx, tx, row.Topic, row.EventID)
		if err != nil {
			return err
		}
		amended, err := was.amended(c)
		if err != nil {
			return err
		}
		if o, err = s.request(ctx, tx, asked); err != nil {
			return err
		}
		id, err := s.replace(ctx, tx, o, row.run(), amended)
		if err != nil {
			return err
		}
		if err := tx.GetContext(ctx, &row, s.db.SQL(`SELECT `+runColumns+` FROM reprise.handler_runs r WHERE r.id = $1`), id); err != nil {
			return err
		}
		run = row.run()
		o.Taken, o.Complete = 1, true
		return errors.Join(s.moveOn(ctx, tx, &o, 0), s.Notify(ctx, tx, ""))
	})
	if err != nil {
		return o, run, fmt.Errorf("edit run %d: %w", runID, err)
	}
	return o, run, nil
}

// amended returns a new event that says what the correction says.
func (e Event) amended(c Correction) (Event, error) {
	if (c.Payload == nil || bytes.Equal(c.Payload, e.Payload)) && (c.Metadata == nil || maps.Equal(c.Metadata, e.Metadata)) {
		return e, errors.New("the correction changes nothing")
	}
	id, err := uuid.NewV7()
	if err != nil {
		return e, err
	}
	e.Amends, e.ID, e.Source = e.ID, id.String(), SourceEdit
	if most := cmp.Or(c.MaxPayload, max(DefaultMaxPayload, len(e.Payload))); len(c.Payload) > most {
		return e, fmt.Errorf("the payload has %d bytes: want at most %d: keep large data elsewhere, or raise MaxPayload of the Correction", len(c.Payload), most)
	}
	if c.Payload != nil {
		e.Payload = c.Payload
	}
	if c.Metadata != nil {
		e.Metadata = c.Metadata
	}
	return e, e.Validate()
}

// replace writes the event with a run of its own, and discards the old one.
func (s *Store) replace(ctx context.Context, tx *sqlx.Tx, o Operation, old Run, e Event) (id int64, err error) {
	c := encode(e)
	if _, err := tx.ExecContext(ctx, s.db.SQL(`
		INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata, source, amends)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`),
		e.ID, e.Topic, e.Key, c.textOrNull(), c.bytesOrNull(), c.metadata, e.Source, e.Amends); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, s.db.SQL(`
		INSERT INTO reprise.operation_runs (operation_id, place, run_id, status, attempt, cycle, tries, instance, finished_at, replay_id)
		SELECT $1, 1, id, status, attempt, cycle, tries, instance, finished_at, replay_id FROM reprise.handler_runs WHERE id = $2`), o.ID, old.ID); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, s.db.SQL(`
		UPDATE reprise.handler_runs SET status = 'DISCARDED', finished_at = now(), failed_at = NULL, discarded_at = now() WHERE id = $1 AND status <> 'DISCARDED'`), old.ID); err != nil {
		return 0, err
	}
	err = tx.GetContext(ctx, &id, s.db.SQL(`
		INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at, replay_id)
		VALUES ($1, $2, $3, $4, now(), $5) RETURNING id`), e.ID, e.Topic, old.Handler, e.Key, o.ID)
	return id, rowError(err)
}
