package queue

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// End writes how attempts ended: all of them or, with an error, none. It is a
// compare-and-set: an outcome is written only while the run is PENDING with the lease's
// instance and attempt. End returns the leases that were lost; nothing is written for
// them. An outcome that is already in the database, because the answer to an earlier
// call was lost, does not count as lost.
func (q *Queue) End(ctx context.Context, outcomes []Outcome) (lost []Lease, err error) {
	if len(outcomes) == 0 {
		return nil, nil
	}
	if err := makeSound(outcomes); err != nil {
		return nil, err
	}
	ended, err := q.dialect.end(ctx, q, outcomes)
	if err != nil {
		return nil, fmt.Errorf("write the end of %d runs: %w", len(outcomes), sqldb.RowError(err))
	}
	return q.lost(ctx, outcomes, ended)
}

// makeSound validates the outcomes and converts the texts of their failures to what the
// database accepts.
func makeSound(outcomes []Outcome) error {
	for i, o := range outcomes {
		if err := o.validate(); err != nil {
			return err
		}
		outcomes[i].Failure = o.Failure.Printable()
		outcomes[i].Callback = o.Callback.Printable()
	}
	return nil
}

// lost returns the leases of the outcomes that were neither written now nor are in the
// database already.
func (q *Queue) lost(ctx context.Context, outcomes []Outcome, ended []Lease) ([]Lease, error) {
	if len(ended) == len(outcomes) {
		return nil, nil
	}
	written := make(map[Lease]bool, len(ended))
	for _, l := range ended {
		written[l] = true
	}
	var missing []Outcome
	for _, o := range outcomes {
		if !written[o.Lease] {
			missing = append(missing, o)
		}
	}
	return q.notEndedSo(ctx, missing)
}

// EndUnlocked is End without waiting for other transactions. It returns the leases of
// runs that another transaction has locked; nothing is written for them. On SQLite,
// which locks no rows, it is End.
func (q *Queue) EndUnlocked(ctx context.Context, outcomes []Outcome) (lost, locked []Lease, err error) {
	if len(outcomes) == 0 || q.db.Kind() == dialect.SQLite { // SQLite locks no rows
		lost, err = q.End(ctx, outcomes)
		return lost, nil, err
	}
	if err := makeSound(outcomes); err != nil {
		return nil, nil, err
	}
	ids := make([]int64, len(outcomes))
	for i, o := range outcomes {
		ids[i] = o.Lease.RunID
	}
	var ended []Lease
	var free []Outcome
	err = q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		ended, free, locked = nil, nil, nil
		var there, unlocked []int64
		if err := tx.SelectContext(ctx, &unlocked, q.db.SQL(unlockedPostgres), q.db.IDs(ids)); err != nil {
			return err
		}
		if err := tx.SelectContext(ctx, &there, q.db.SQL(existingPostgres), q.db.IDs(ids)); err != nil {
			return err
		}
		waits := make(map[int64]bool, len(there))
		for _, id := range there {
			waits[id] = true
		}
		for _, id := range unlocked {
			delete(waits, id)
		}
		for _, o := range outcomes {
			if waits[o.Lease.RunID] {
				locked = append(locked, o.Lease)
			} else {
				free = append(free, o)
			}
		}
		ended, err = postgres{}.endIn(ctx, q, tx, free)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("write the end of %d runs: %w", len(outcomes), err)
	}
	lost, err = q.lost(ctx, free, ended)
	return lost, locked, err
}

// Succeed writes SUCCESS in the caller's transaction if the lease holds; otherwise it
// returns ErrLeaseLost. The caller's commit makes the success permanent.
func (q *Queue) Succeed(ctx context.Context, tx *sqlx.Tx, l Lease) error {
	if !sqldb.Keepable(l.Instance) {
		return fmt.Errorf("%v: %w", l, store.ErrLeaseLost)
	}
	n, err := q.succeed(ctx, tx, succeed, l)
	if err == nil && n == 0 {
		err = fmt.Errorf("%v: %w", l, store.ErrLeaseLost)
	}
	return err
}

// SucceedMarked is Succeed in a marked transaction. If the handler has ended the
// transaction, nothing is written, and the error is ErrEnded.
func (q *Queue) SucceedMarked(ctx context.Context, tx *sqlx.Tx, m sqldb.Mark, l Lease) error {
	if q.db.Kind() == dialect.SQLite {
		if err := q.db.Ended(ctx, tx, m); err != nil {
			return err
		}
		return q.Succeed(ctx, tx, l)
	}
	if !sqldb.Keepable(l.Instance) {
		return fmt.Errorf("%v: %w", l, store.ErrLeaseLost)
	}
	n, err := q.succeed(ctx, tx, succeedMarkedPostgres, l, int64(m))
	switch {
	case errors.Is(err, sql.ErrTxDone):
		return cmp.Or(sqldb.EndedIf(ctx, true), err)
	case err == nil && n == 0:
		return cmp.Or(q.db.Ended(ctx, tx, m), fmt.Errorf("%v: %w", l, store.ErrLeaseLost))
	}
	return err
}

func (q *Queue) succeed(ctx context.Context, tx *sqlx.Tx, statement string, l Lease, args ...any) (n int64, err error) {
	result, err := tx.ExecContext(ctx, q.db.SQL(statement), append([]any{l.RunID, l.Instance, l.Attempt}, args...)...)
	if err == nil {
		n, err = result.RowsAffected()
	}
	if err != nil {
		return 0, fmt.Errorf("write the success of run %d: %w", l.RunID, err)
	}
	return n, nil
}

// notEndedSo returns the leases of the outcomes that the database does not show.
func (q *Queue) notEndedSo(ctx context.Context, outcomes []Outcome) (lost []Lease, err error) {
	stands := make(map[int64]store.Run, len(outcomes))
	for chunk := range slices.Chunk(outcomes, store.MaxLimit) {
		f := store.Filter{Limit: store.MaxLimit}
		for _, o := range chunk {
			f.IDs = append(f.IDs, o.Lease.RunID)
		}
		runs, err := q.record.Runs(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			stands[r.ID] = r
		}
	}
	for _, o := range outcomes {
		if r := stands[o.Lease.RunID]; !o.isEndOf(&r) {
			lost = append(lost, o.Lease)
		}
	}
	return lost, nil
}

// isEndOf reports whether the run is in the state that the outcome leaves.
func (o Outcome) isEndOf(r *store.Run) bool {
	switch {
	case r.Status != o.Status || r.Attempt != o.Lease.Attempt:
		return false
	case o.Status == store.Pending:
		return !r.DueAt.IsZero() && (o.Failure == nil || r.ErrorKind == o.Failure.Kind)
	default:
		return r.Instance == o.Lease.Instance
	}
}

func (o Outcome) validate() error {
	switch {
	case !sqldb.Keepable(o.Lease.Instance):
		return fmt.Errorf("end a run: instance %.255q: want valid UTF-8 without NUL", o.Lease.Instance)
	case o.Status != store.Success && o.Status != store.Failed && o.Status != store.Pending:
		return fmt.Errorf("end %v: status %.255q: want %s, %s or %s", o.Lease, o.Status, store.Success, store.Failed, store.Pending)
	case o.Status == store.Failed && o.Failure == nil:
		return fmt.Errorf("end %v: a failed run needs a Failure", o.Lease)
	case o.Status == store.Success && o.Failure != nil:
		return fmt.Errorf("end %v: a successful run has no Failure", o.Lease)
	case o.NextCycle && (o.Status != store.Pending || o.Refund):
		return fmt.Errorf("end %v: a next cycle is for a pending run, and gives no try back", o.Lease)
	case o.Failure != nil:
		if err := sqldb.ValidName("failure kind", string(o.Failure.Kind)); err != nil {
			return fmt.Errorf("end %v: %w", o.Lease, err)
		}
	}
	return nil
}
