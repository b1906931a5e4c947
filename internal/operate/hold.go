package operate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/actions"
	"github.com/reprise-bus/reprise/store"
)

// Pause stops a replay or a backfill: its waiting runs are not claimed, and no further
// runs are taken up. A handler that is running continues, and its run may be retried.
// Pause may be called again, whatever the result of the last call. If the operation was
// not paused yet, an Action records who has paused it.
func (s *Operator) Pause(ctx context.Context, id int64, by store.By) (store.Operation, error) {
	o, action, err := s.enter(ctx, id, store.Paused, store.Pausing, by, store.Replaying, store.Backfilling)
	if err != nil {
		return o, err
	}
	return o, s.eachRun(ctx, o, action, func(ctx context.Context, tx *sqlx.Tx, _ *operation, above, upTo int64) (int64, error) {
		return s.db.Change(ctx, tx, s.db.SQL(`
			UPDATE reprise.handler_runs SET due_at = $4
			WHERE replay_id = $1 AND id > $2 AND id <= $3 AND due_at IS NOT NULL AND due_at < $4`), id, above, upTo, s.db.Time(store.FarAway))
	})
}

// Release continues a paused operation: its held runs become due at its rate, and Take
// takes up the rest. It may be called again, whatever the result of the last call. If
// the operation was paused, an Action records who has resumed it.
func (s *Operator) Release(ctx context.Context, id int64, by store.By) (store.Operation, error) {
	o, action, err := s.enter(ctx, id, store.Running, store.Resuming, by, store.Replaying, store.Discarding, store.Backfilling)
	if err != nil {
		return o, err
	}
	err = s.eachRun(ctx, o, action, func(ctx context.Context, tx *sqlx.Tx, o *operation, above, upTo int64) (int64, error) {
		n, err := s.db.Change(ctx, tx, s.db.Either(releaseRunsPostgres, releaseRunsSQLite), id, above, upTo, o.pace(), s.db.Time(store.FarAway))
		if err != nil || n == 0 {
			return 0, err
		}
		return n, errors.Join(s.moveOn(ctx, tx, o, n), s.db.Notify(ctx, tx, ""))
	})
	return o, err
}

// Cancel ends a replay or a backfill and takes back its waiting runs. A run that has
// not been tried since gets its former state back, or is deleted if the backfill
// created it. A run that was tried and waits for another attempt becomes FAILED, or
// DISCARDED if it has no error. Cancel may be called again, whatever the result of the
// last call. An Action records who cancelled first.
func (s *Operator) Cancel(ctx context.Context, id int64, by store.By) (store.Operation, error) {
	o, action, err := s.enter(ctx, id, store.Cancelled, store.Cancelling, by, store.Replaying, store.Backfilling)
	if err != nil {
		return o, err
	}
	return o, s.eachRun(ctx, o, action, func(ctx context.Context, tx *sqlx.Tx, o *operation, above, upTo int64) (changed int64, err error) {
		if o.Kind == store.Backfilling {
			for _, statement := range []string{forgetBackfilled, deleteBackfilled} {
				if changed, err = s.db.Change(ctx, tx, s.db.SQL(statement), id, above, upTo); err != nil {
					return 0, err
				}
			}
		} else if changed, err = s.db.Change(ctx, tx, s.db.SQL(restoreReplayed), id, above, upTo); err != nil {
			return 0, err
		}
		tried, err := s.db.Change(ctx, tx, s.db.SQL(endTried), id, above, upTo)
		return changed + tried, err
	})
}

// Undo puts the runs that a discard closed back to their former state, if nothing else
// has happened to them since. It may be called again, whatever the result of the last
// call. An Action records who called Undo first.
func (s *Operator) Undo(ctx context.Context, id int64, by store.By) (o store.Operation, done store.PutBack, err error) {
	o, action, err := s.enter(ctx, id, store.Undone, store.Undoing, by, store.Discarding)
	if err != nil {
		return o, done, err
	}
	for place := int64(0); place < o.Taken; place += takeLook {
		var n int64
		if err := s.db.InTx(ctx, func(tx *sqlx.Tx) (err error) {
			if n, err = s.db.Change(ctx, tx, s.db.SQL(restoreDiscarded), id, place, place+takeLook); err != nil {
				return err
			}
			return actions.Count(ctx, s.db, tx, action, n, 0, 0)
		}); err != nil {
			return o, done, fmt.Errorf("undo operation %d: %w", id, err)
		}
		done.Runs += n
	}
	// The rows of operation_runs are deleted together with their runs.
	var left struct {
		All   int64 `db:"all_runs"`
		Later int64 `db:"later"`
	}
	if err := s.db.GetContext(ctx, &left, s.db.SQL(countLeft), id); err != nil {
		return o, done, fmt.Errorf("undo operation %d: %w", id, err)
	}
	done.Gone, done.Later = max(0, o.Taken-left.All), left.Later
	return o, done, nil
}

// enter brings an operation of one of the kinds into a state. If the operation is
// already in this state, enter returns the action that brought it there. A cancelled or
// undone operation does not change.
func (s *Operator) enter(ctx context.Context, id int64, state store.OperationState, doing store.ActionKind, by store.By, kinds ...store.OperationKind) (store.Operation, int64, error) {
	var o operation
	var action int64
	if err := by.Validate(); err != nil {
		return o.Operation, 0, fmt.Errorf("make the operation %s: %w", state, err)
	}
	err := s.db.InTx(ctx, func(tx *sqlx.Tx) (err error) {
		if o, err = s.locked(ctx, tx, id); err != nil {
			return err
		}
		known := false
		for _, kind := range kinds {
			known = known || o.Kind == kind
		}
		switch {
		case !known:
			return fmt.Errorf("operation %d is of kind %s: want one of %v", id, o.Kind, kinds)
		case o.State == state:
			action, err = actions.Last(ctx, s.db, tx, string(doing), id)
			return err
		case o.State == store.Cancelled || o.State == store.Undone:
			return fmt.Errorf("operation %d is %s, and stays so", id, o.State)
		}
		o.State = state
		if _, err := tx.ExecContext(ctx, s.db.SQL(`UPDATE reprise.operations SET state = $2, next_due = now() WHERE id = $1`), id, string(state)); err != nil {
			return err
		}
		action, err = actions.Write(ctx, s.db, tx, actions.Action{Kind: string(doing), Operation: id, Name: by.Name, Reason: by.Reason})
		return err
	})
	if err != nil {
		return o.Operation, 0, fmt.Errorf("make the operation %s: %w", state, err)
	}
	return o.Operation, action, nil
}

// eachRun calls do for successive ranges of the operation's runs, in a transaction
// each, as long as the operation stays in its state. do returns how many runs it
// changed; the action adds them up.
func (s *Operator) eachRun(ctx context.Context, o store.Operation, action int64, do func(ctx context.Context, tx *sqlx.Tx, o *operation, above, upTo int64) (int64, error)) error {
	for above, last := int64(0), false; !last; {
		var upTo int64
		err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
			now, err := s.locked(ctx, tx, o.ID)
			if err != nil {
				return err
			}
			if now.State != o.State {
				return fmt.Errorf("somebody has made it %s meanwhile", now.State)
			}
			upTo = 1<<63 - 1
			err = tx.GetContext(ctx, &upTo, s.db.SQL(fmt.Sprintf(`
				SELECT id FROM reprise.handler_runs WHERE replay_id = $1 AND id > $2 ORDER BY id LIMIT 1 OFFSET %d`, takeLook-1)), o.ID, above)
			if last = errors.Is(err, sql.ErrNoRows); err != nil && !last {
				return err
			}
			changed, err := do(ctx, tx, &now, above, upTo)
			if err != nil {
				return err
			}
			return actions.Count(ctx, s.db, tx, action, changed, 0, 0)
		})
		if err != nil {
			return fmt.Errorf("go through the runs of operation %d: %w", o.ID, err)
		}
		above = upTo
	}
	return nil
}
