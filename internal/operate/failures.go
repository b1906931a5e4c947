package operate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Triggers note each run that becomes FAILED or stops being FAILED. Later, one process adds
// these changes to the failure groups. So one transaction locks a group's row, and not
// every transaction that ends a run of the group.

// countedAtOnce is how many failures, or changes, one step of CountFailures counts.
const countedAtOnce = 10_000

// CountFailures does the next step of counting the failure groups, in a short
// transaction, and reports whether there is more to do. It counts FAILED runs from
// before an upgrade or a Recount, and adds later changes to the groups. Any number of
// processes may call it at once: one of them works. Except for Counting, it does not
// change the result of Grouping.
func (s *Operator) CountFailures(ctx context.Context) (more bool, err error) {
	err = s.db.InTx(ctx, func(tx *sqlx.Tx) (err error) {
		more = false
		var counted struct {
			RunID int64 `db:"run_id"`
			UpTo  int64 `db:"up_to"`
		}
		err = tx.GetContext(ctx, &counted, s.db.SQL(`SELECT run_id, up_to FROM reprise.failures_counted FOR UPDATE SKIP LOCKED`))
		switch {
		case errors.Is(err, sql.ErrNoRows): // another process does it
			return nil
		case err != nil:
			return err
		case counted.RunID < counted.UpTo:
			more = true
			return s.countPast(ctx, tx, counted.RunID, counted.UpTo)
		case s.db.Kind() == dialect.SQLite: // its triggers have counted already
			return nil
		}
		more, err = s.addChanges(ctx, tx)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("count failures: %w", err)
	}
	return more, nil
}

// countPast counts the next FAILED runs after a run. The same statement deletes the
// changes of these runs that it sees. Later changes count.
func (s *Operator) countPast(ctx context.Context, tx *sqlx.Tx, after, last int64) error {
	upTo := last
	err := tx.GetContext(ctx, &upTo, s.db.SQL(fmt.Sprintf(`
		SELECT id FROM reprise.handler_runs
		WHERE failed_at IS NOT NULL AND id > $1 AND id <= $2 ORDER BY id LIMIT 1 OFFSET %d`, countedAtOnce-1)), after, last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if _, err := tx.ExecContext(ctx, s.db.Either(countPastPostgres, countPastSQLite), after, upTo); err != nil {
		return err
	}
	if upTo == last {
		upTo = 1<<63 - 1
	}
	_, err = tx.ExecContext(ctx, s.db.SQL(`UPDATE reprise.failures_counted SET run_id = $1`), upTo)
	return err
}

// addChanges adds the next changes to the groups and deletes them, in one statement.
// The caller holds the lock of failures_counted, so that no other process adds the same
// changes.
func (s *Operator) addChanges(ctx context.Context, tx *sqlx.Tx) (more bool, err error) {
	var taken int64
	if err := tx.GetContext(ctx, &taken, s.db.SQL(addChangesPostgres), countedAtOnce); err != nil || taken == 0 {
		return false, err
	}
	_, err = tx.ExecContext(ctx, s.db.SQL(`DELETE FROM reprise.failure_groups WHERE runs = 0`))
	return taken == countedAtOnce, err
}

// Recount makes CountFailures count all FAILED runs again, which includes changes by
// hand and partial restores.
func (s *Operator) Recount(ctx context.Context) error {
	err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, s.db.SQL(`SELECT run_id FROM reprise.failures_counted FOR UPDATE`)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, s.db.SQL(`DELETE FROM reprise.failure_groups`)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, s.db.SQL(`
			UPDATE reprise.failures_counted
			SET run_id = CASE WHEN highest > 0 THEN 0 ELSE 9223372036854775807 END, up_to = highest
			FROM (SELECT coalesce(max(id), 0) AS highest FROM reprise.handler_runs) r`))
		return err
	})
	if err != nil {
		return fmt.Errorf("have failures counted anew: %w", err)
	}
	return nil
}
