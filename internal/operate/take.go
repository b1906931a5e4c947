package operate

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/store"
)

// takeLook is how many of the runs that an index offers one batch looks at.
const takeLook = 5000

// Take takes up the next batch of an operation's runs, in one short transaction, and
// returns the operation as it is afterwards. Any number of callers may do so at once.
// Take does nothing to an operation that is Complete or not Running.
//
// A replay makes its runs due again with tries and cycle reset, at the operation's
// rate. A discard ends its runs as DISCARDED. A run that another operation has taken up
// meanwhile is passed over.
func (s *Operator) Take(ctx context.Context, id int64) (store.Operation, error) {
	var o operation
	err := s.db.InTx(ctx, func(tx *sqlx.Tx) (err error) {
		if o, err = s.locked(ctx, tx, id); err != nil || o.Complete || o.State != store.Running {
			return err
		}
		switch o.Kind {
		case store.Replaying, store.Discarding:
			return s.takeRuns(ctx, tx, &o)
		case store.Backfilling:
			return s.takeEvents(ctx, tx, &o)
		}
		return fmt.Errorf("operation %d is of kind %s, which takes up nothing by and by", id, o.Kind)
	})
	if err != nil {
		return o.Operation, fmt.Errorf("take up runs: %w", err)
	}
	return o.Operation, nil
}

// locked returns an operation and locks it until tx ends.
func (s *Operator) locked(ctx context.Context, tx *sqlx.Tx, id int64) (operation, error) {
	var o operation
	var text []byte
	err := tx.GetContext(ctx, &text, s.db.SQL(`SELECT cursor FROM reprise.operations WHERE id = $1 FOR UPDATE`), id)
	if errors.Is(err, sql.ErrNoRows) {
		return o, fmt.Errorf("operation %d: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(text, &o.cursor); err != nil {
		return o, fmt.Errorf("operation %d: cursor in the database: %w", id, err)
	}
	o.Operation, err = s.record.OperationTx(ctx, tx, id)
	return o, err
}

func (s *Operator) takeRuns(ctx context.Context, tx *sqlx.Tx, o *operation) error {
	upTo, err := s.lookFrom(ctx, tx, o)
	if err != nil {
		return err
	}
	c := s.takes(o.Operation, o.cursor.Run, upTo+1)
	operation, taken := c.Arg(o.ID), c.Arg(o.Taken)
	// The runs are locked first, in the order of their ids. A run that another
	// operation has taken up is then no longer selected. LIMIT never cuts the result;
	// it is a hint for the planner.
	result, err := tx.ExecContext(ctx, s.db.Compose(fmt.Sprintf(`
		INSERT INTO reprise.operation_runs (operation_id, place, run_id, status, attempt, cycle, tries, instance, due_at, finished_at, replay_id)
		SELECT CAST(%s AS bigint), CAST(%s AS bigint) + row_number() OVER (ORDER BY r.id), r.id, r.status, r.attempt, r.cycle, r.tries, r.instance, r.due_at, r.finished_at, r.replay_id
		FROM (SELECT * FROM reprise.handler_runs r WHERE %s ORDER BY r.id LIMIT %d FOR UPDATE) r`, operation, taken, c.Where(), takeLook)), c.Args...)
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err != nil {
		return err
	}
	if n > 0 {
		if err := s.turn(ctx, tx, o, n); err != nil {
			return err
		}
	}
	o.Taken += n
	o.cursor.Run = upTo
	o.Complete = upTo == o.cursor.UpTo
	return s.moveOn(ctx, tx, o, n)
}

// lookFrom returns the id of the last run at which the next batch looks.
func (s *Operator) lookFrom(ctx context.Context, tx *sqlx.Tx, o *operation) (upTo int64, err error) {
	look, args := s.takes(o.Operation, o.cursor.Run, o.cursor.UpTo+1).Look()
	err = tx.GetContext(ctx, &upTo, s.db.Compose(fmt.Sprintf(
		`SELECT r.id FROM reprise.handler_runs r WHERE %s ORDER BY r.id LIMIT 1 OFFSET %d`, look, takeLook-1)), args...)
	if errors.Is(err, sql.ErrNoRows) {
		return o.cursor.UpTo, nil
	}
	return upTo, err
}

// turn applies the operation to the n runs that were just taken up.
func (s *Operator) turn(ctx context.Context, tx *sqlx.Tx, o *operation, n int64) error {
	if o.Kind == store.Discarding {
		_, err := tx.ExecContext(ctx, s.db.SQL(discardTaken), o.ID, o.Taken)
		return err
	}
	_, err := tx.ExecContext(ctx, s.db.Either(replayTakenPostgres, replayTakenSQLite), o.ID, o.Taken, o.pace())
	if err != nil || o.Taken > 0 && o.Rate > 0 {
		return err
	}
	return s.db.Notify(ctx, tx, "")
}

// pace returns the time between two runs, in seconds.
func (o *operation) pace() float64 {
	if o.Rate == 0 {
		return 0
	}
	return 1 / o.Rate
}

// moveOn writes the progress of the operation, which has taken up n more runs.
func (s *Operator) moveOn(ctx context.Context, tx *sqlx.Tx, o *operation, n int64) error {
	_, err := tx.ExecContext(ctx, s.db.Either(moveOnPostgres, moveOnSQLite), o.ID, o.Taken, o.cursor.text(), o.Complete, n, o.pace())
	return err
}
