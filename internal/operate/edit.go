package operate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Edit gives the handler of a FAILED or DISCARDED run a corrected event. In one
// transaction, it writes a new event that amends the run's event, creates a due run of
// this handler for it, and makes the old run DISCARDED. The old run's attempts stay on
// record. Edit returns the operation and the new run.
//
// The error is ErrNotEnded for a run that is PENDING, and ErrNotFound for an unknown
// run. A run that succeeded, a correction that changes nothing, and a handler without a
// subscription are errors, too.
func (s *Operator) Edit(ctx context.Context, runID int64, c store.Correction, by, reason string) (o store.Operation, run store.Run, err error) {
	o = store.Operation{Kind: store.Editing, RequestedBy: by, Reason: reason, Selection: store.Filter{IDs: []int64{runID}}, Total: store.Count{N: 1}}
	if err := o.Validate(); err != nil {
		return o, run, err
	}
	asked := o
	err = s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, s.db.SQL(`SELECT 1 FROM reprise.handler_runs WHERE id = $1 FOR UPDATE`), runID); err != nil {
			return err
		}
		old, err := s.record.RunTx(ctx, tx, runID)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return store.ErrNotFound
		case err != nil:
			return err
		case old.Status == store.Pending:
			return store.ErrNotEnded
		case old.Status == store.Success:
			return fmt.Errorf("it is %s: want %s or %s", old.Status, store.Failed, store.Discarded)
		}
		var served bool
		if err := tx.GetContext(ctx, &served, s.db.SQL(`
			SELECT EXISTS (SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2)`), old.Topic, old.Handler); err != nil {
			return err
		}
		if !served {
			return fmt.Errorf("no subscription for handler %q: register it with the bus", old.Handler)
		}
		was, err := s.record.EventTx(ctx, tx, old.Topic, old.EventID)
		if err != nil {
			return err
		}
		corrected, err := amended(was, c)
		if err != nil {
			return err
		}
		requested := operation{Operation: asked}
		if err := s.request(ctx, tx, &requested); err != nil {
			return err
		}
		id, err := s.replace(ctx, tx, requested.ID, old, corrected)
		if err != nil {
			return err
		}
		if run, err = s.record.RunTx(ctx, tx, id); err != nil {
			return err
		}
		requested.Taken, requested.Complete = 1, true
		o = requested.Operation
		return errors.Join(s.moveOn(ctx, tx, &requested, 0), s.db.Notify(ctx, tx, ""))
	})
	if err != nil {
		return o, run, fmt.Errorf("edit run %d: %w", runID, err)
	}
	return o, run, nil
}

// amended returns a new event with the correction applied.
func amended(e store.Event, c store.Correction) (store.Event, error) {
	if (c.Payload == nil || bytes.Equal(c.Payload, e.Payload)) && (c.Metadata == nil || maps.Equal(c.Metadata, e.Metadata)) {
		return e, errors.New("the correction changes nothing")
	}
	id, err := uuid.NewV7()
	if err != nil {
		return e, err
	}
	e.Amends, e.ID, e.Source = e.ID, id.String(), store.SourceEdit
	if most := cmp.Or(c.MaxPayload, max(store.DefaultMaxPayload, len(e.Payload))); len(c.Payload) > most {
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

// replace writes the event with a run of its own, and discards the old run.
func (s *Operator) replace(ctx context.Context, tx *sqlx.Tx, operation int64, old store.Run, e store.Event) (id int64, err error) {
	c := sqldb.Encode(e.Payload, e.Metadata)
	if _, err := tx.ExecContext(ctx, s.db.SQL(`
		INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata, source, amends)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`),
		e.ID, e.Topic, e.Key, c.TextOrNull(), c.BytesOrNull(), c.Metadata, e.Source, e.Amends); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, s.db.SQL(`
		INSERT INTO reprise.operation_runs (operation_id, place, run_id, status, attempt, cycle, tries, instance, finished_at, replay_id)
		SELECT $1, 1, id, status, attempt, cycle, tries, instance, finished_at, replay_id FROM reprise.handler_runs WHERE id = $2`), operation, old.ID); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, s.db.SQL(`
		UPDATE reprise.handler_runs SET status = 'DISCARDED', finished_at = now(), failed_at = NULL, discarded_at = now() WHERE id = $1 AND status <> 'DISCARDED'`), old.ID); err != nil {
		return 0, err
	}
	err = tx.GetContext(ctx, &id, s.db.SQL(`
		INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at, replay_id)
		VALUES ($1, $2, $3, $4, now(), $5) RETURNING id`), e.ID, e.Topic, old.Handler, e.Key, operation)
	return id, sqldb.RowError(err)
}
