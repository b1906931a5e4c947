package store

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
)

// End writes how attempts ended, all of them or, with an error, none. It is a
// compare-and-set: an outcome counts only while its lease holds, that is while
// the run is Pending with the same instance and attempt. The leases that were
// lost are returned; nothing is written for them. An outcome that the database
// has already, because the answer to an earlier call was lost, is not.
func (s *Store) End(ctx context.Context, outcomes []Outcome) (lost []Lease, err error) {
	if len(outcomes) == 0 {
		return nil, nil
	}
	if err := makeSound(outcomes); err != nil {
		return nil, err
	}
	ended, err := s.dialect.end(ctx, s, outcomes)
	if err != nil {
		return nil, fmt.Errorf("write the end of %d runs: %w", len(outcomes), rowError(err))
	}
	return s.lost(ctx, outcomes, ended)
}

// makeSound validates the outcomes, and makes the texts of their failures such as
// the database takes.
func makeSound(outcomes []Outcome) error {
	for i, o := range outcomes {
		if err := o.validate(); err != nil {
			return err
		}
		outcomes[i].Failure = o.Failure.printable()
		outcomes[i].Callback = o.Callback.printable()
	}
	return nil
}

// lost returns the leases of the outcomes that neither were written now nor stand
// in the database already.
func (s *Store) lost(ctx context.Context, outcomes []Outcome, ended []Lease) ([]Lease, error) {
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
	return s.notEndedSo(ctx, missing)
}

// EndUnlocked is End for what no other transaction has locked: it waits for
// nobody. The leases of the runs that are locked are returned; nothing is written
// for them yet.
func (s *Store) EndUnlocked(ctx context.Context, outcomes []Outcome) (lost, locked []Lease, err error) {
	if len(outcomes) == 0 || s.db.Kind() == dialect.SQLite { // which locks no rows
		lost, err = s.End(ctx, outcomes)
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
	err = s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		ended, free, locked = nil, nil, nil
		var there, unlocked []int64
		if err := tx.SelectContext(ctx, &unlocked, s.db.SQL(`
			SELECT id FROM reprise.handler_runs WHERE id = ANY ($1::bigint[]) FOR UPDATE SKIP LOCKED`), s.ids(ids)); err != nil {
			return err
		}
		if err := tx.SelectContext(ctx, &there, s.db.SQL(`
			SELECT id FROM reprise.handler_runs WHERE id = ANY ($1::bigint[])`), s.ids(ids)); err != nil {
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
		ended, err = postgres{}.endIn(ctx, s, tx, free)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("write the end of %d runs: %w", len(outcomes), err)
	}
	lost, err = s.lost(ctx, free, ended)
	return lost, locked, err
}

// Succeed writes a SUCCESS in the caller's transaction, while the lease holds;
// ErrLeaseLost says that it does not. The transaction decides then whether
// anything was written.
func (s *Store) Succeed(ctx context.Context, tx *sqlx.Tx, l Lease) error {
	if !keepable(l.Instance) {
		return fmt.Errorf("%v: %w", l, ErrLeaseLost)
	}
	n, err := s.succeed(ctx, tx, l, ``)
	if err == nil && n == 0 {
		err = fmt.Errorf("%v: %w", l, ErrLeaseLost)
	}
	return err
}

// SucceedMarked is Succeed in the transaction that was marked. Where the handler has
// ended it, nothing is written, and the error is ErrEnded.
func (s *Store) SucceedMarked(ctx context.Context, tx *sqlx.Tx, m sqldb.Mark, l Lease) error {
	if s.db.Kind() == dialect.SQLite {
		if err := s.db.Ended(ctx, tx, m); err != nil {
			return err
		}
		return s.Succeed(ctx, tx, l)
	}
	if !keepable(l.Instance) {
		return fmt.Errorf("%v: %w", l, ErrLeaseLost)
	}
	n, err := s.succeed(ctx, tx, l, ` AND CAST($4 AS bigint) = `+sqldb.BeganAt, int64(m))
	switch {
	case errors.Is(err, sql.ErrTxDone):
		return cmp.Or(sqldb.EndedIf(ctx, true), err)
	case err == nil && n == 0:
		return cmp.Or(s.db.Ended(ctx, tx, m), fmt.Errorf("%v: %w", l, ErrLeaseLost))
	}
	return err
}

func (s *Store) succeed(ctx context.Context, tx *sqlx.Tx, l Lease, and string, args ...any) (n int64, err error) {
	result, err := tx.ExecContext(ctx, s.db.SQL(`
		UPDATE reprise.handler_runs
		SET status = 'SUCCESS', finished_at = now(), error_kind = NULL, error = NULL, fingerprint = NULL
		WHERE id = $1 AND instance = $2 AND attempt = $3 AND status = 'PENDING'`+and), append([]any{l.RunID, l.Instance, l.Attempt}, args...)...)
	if err == nil {
		n, err = result.RowsAffected()
	}
	if err != nil {
		return 0, fmt.Errorf("write the success of run %d: %w", l.RunID, err)
	}
	return n, nil
}

// notEndedSo returns the leases of those outcomes that are not what the
// database says.
func (s *Store) notEndedSo(ctx context.Context, outcomes []Outcome) (lost []Lease, err error) {
	stands := make(map[int64]Run, len(outcomes))
	for chunk := range slices.Chunk(outcomes, MaxLimit) {
		f := Filter{Limit: MaxLimit}
		for _, o := range chunk {
			f.IDs = append(f.IDs, o.Lease.RunID)
		}
		runs, err := s.Runs(ctx, f)
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

// isEndOf says whether the run stands as the outcome leaves it.
func (o Outcome) isEndOf(r *Run) bool {
	switch {
	case r.Status != o.Status || r.Attempt != o.Lease.Attempt:
		return false
	case o.Status == Pending:
		return !r.DueAt.IsZero() && (o.Failure == nil || r.ErrorKind == o.Failure.Kind)
	default:
		return r.Instance == o.Lease.Instance
	}
}

func (o Outcome) validate() error {
	switch {
	case !keepable(o.Lease.Instance):
		return fmt.Errorf("end a run: instance %.255q: want valid UTF-8 without NUL", o.Lease.Instance)
	case o.Status != Success && o.Status != Failed && o.Status != Pending:
		return fmt.Errorf("end %v: status %.255q: want %s, %s or %s", o.Lease, o.Status, Success, Failed, Pending)
	case o.Status == Failed && o.Failure == nil:
		return fmt.Errorf("end %v: a failed run needs a Failure", o.Lease)
	case o.Status == Success && o.Failure != nil:
		return fmt.Errorf("end %v: a successful run has no Failure", o.Lease)
	case o.NextCycle && (o.Status != Pending || o.Refund):
		return fmt.Errorf("end %v: a next cycle is for a pending run, and gives no try back", o.Lease)
	case o.Failure != nil:
		if err := validName("failure kind", string(o.Failure.Kind)); err != nil {
			return fmt.Errorf("end %v: %w", o.Lease, err)
		}
	}
	return nil
}
