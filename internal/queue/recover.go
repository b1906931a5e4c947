package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Which runs instances hold, and what becomes of these runs when an instance leaves or dies.

// holder is an instance and the runs that it may hold.
type holder struct {
	ID     string  `db:"id"`
	Recent int64   `db:"recent"`
	Runs   runList `db:"held_runs"`
	Old    bool    `db:"old"` // the process is of version 1
}

const holderColumns = `v.id, coalesce(v.recent_run, v.lowest_run) AS recent, v.held_runs, v.recent_run IS NULL AS old`

// runList scans a list of runs that DB.IDs wrote.
type runList []int64

func (l *runList) Scan(src any) error {
	if text, ok := src.(string); ok && strings.HasPrefix(text, "[") { // SQLite
		return json.Unmarshal([]byte(text), (*[]int64)(l))
	}
	return (*pq.Int64Array)(l).Scan(src)
}

// heldRun is a run that an instance holds.
type heldRun struct {
	ID       int64  `db:"id"`
	Instance string `db:"instance"`
	Attempt  int    `db:"attempt"`
}

const heldRuns = `SELECT id, instance, attempt FROM reprise.handler_runs WHERE status = 'PENDING' AND due_at IS NULL AND `

type selecter interface {
	SelectContext(ctx context.Context, into any, query string, args ...any) error
}

// heldBy returns the runs that the instances hold, in no order. It reads only the runs
// that they name, and the runs since the lowest Recent of the instances.
func (q *Queue) heldBy(ctx context.Context, db selecter, holders []holder) ([]heldRun, error) {
	if len(holders) == 0 {
		return nil, nil
	}
	recent := slices.MinFunc(holders, func(a, b holder) int { return cmp.Compare(a.Recent, b.Recent) }).Recent
	var named []any
	instances := make([]any, len(holders))
	for i, h := range holders {
		instances[i] = h.ID
		for _, run := range h.Runs {
			if run < recent {
				named = append(named, run)
			}
		}
	}
	var all []heldRun
	if err := db.SelectContext(ctx, &all, q.db.Compose(heldRuns+`id >= $1 AND instance IN `+sqldb.Parameters(2, len(instances))), append([]any{recent}, instances...)...); err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(named, store.MaxLimit) {
		var some []heldRun
		if err := db.SelectContext(ctx, &some, q.db.Compose(heldRuns+`id IN `+sqldb.Parameters(1, len(chunk))+` AND instance IN `+sqldb.Parameters(1+len(chunk), len(instances))),
			append(slices.Clone(chunk), instances...)...); err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Held returns the leases that the instance holds by the database, ordered by id. A
// lease of which the instance does not know comes from a claim whose answer was lost.
func (q *Queue) Held(ctx context.Context, id string) ([]Lease, error) {
	if !sqldb.Keepable(id) {
		return nil, nil
	}
	fail := func(err error) ([]Lease, error) {
		return nil, fmt.Errorf("read the leases of instance %s: %w", id, err)
	}
	var own []holder
	if err := q.db.SelectContext(ctx, &own, q.db.SQL(`SELECT `+holderColumns+` FROM reprise.instances v WHERE v.id = $1`), id); err != nil {
		return fail(err)
	}
	runs, err := q.heldBy(ctx, q.db, own)
	if err != nil {
		return fail(err)
	}
	slices.SortFunc(runs, func(a, b heldRun) int { return cmp.Compare(a.ID, b.ID) })
	leases := make([]Lease, len(runs))
	for i, r := range runs {
		leases[i] = Lease{RunID: r.ID, Instance: id, Attempt: r.Attempt}
	}
	return leases, nil
}

// Deregister removes the instance. The runs that it still holds are due again, with the
// try given back. If one of them is locked, by an open transaction of the instance, or
// the database refuses the change, that run is left for Recover.
func (q *Queue) Deregister(ctx context.Context, id string) error {
	if !sqldb.Keepable(id) {
		return nil
	}
	var refusal error
	err := q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		// Once this statement has the lock, a concurrent claim or insert has ended.
		var own []holder
		if err := tx.SelectContext(ctx, &own, q.db.SQL(`SELECT `+holderColumns+` FROM reprise.instances v WHERE v.id = $1 FOR UPDATE`), id); err != nil {
			return err
		}
		_, refused, err := q.forget(ctx, tx, own, interrupted)
		refusal = refused
		return err
	})
	if err = errors.Join(err, refusal); err != nil {
		return fmt.Errorf("deregister instance %s: %w", id, err)
	}
	return nil
}

// Recover makes the runs of dead instances due again and removes these instances. An
// attempt that a handler had begun is kept as abandoned. Recover returns the ids of the
// removed instances. Any number of instances may recover at once.
//
// judge is the instance that asks. An instance is dead when its last heartbeat is older
// than its own DeadAfter, by the database's clock. No instance is dead for a judge that
// was held up itself: the judge's last heartbeat must be young. After a late heartbeat
// of the judge, every instance gets a full DeadAfter, because the database or all
// processes may have stood still.
//
// Recover does not wait for a locked run: a transaction that a dead process left open,
// or a statement of it that the server still executes. The run is left for the next
// call. A run whose change the database refuses, by a trigger of the application for
// example, is left, too: the others are recovered, and the error names the refused run.
func (q *Queue) Recover(ctx context.Context, judge string) (dead []string, err error) {
	if !sqldb.Keepable(judge) {
		return nil, nil
	}
	for {
		var found int
		var gone []string
		var refusal error
		err := q.db.InTx(ctx, func(tx *sqlx.Tx) (err error) {
			var silent []holder
			if err := tx.SelectContext(ctx, &silent, q.db.SQL(`
				SELECT `+holderColumns+`
				FROM reprise.instances v, reprise.instances i
				WHERE i.id = $1 AND i.heartbeat_at >= `+late+` AND coalesce(i.steady_since, i.started_at) <= now(-v.dead_after)
				AND (v.heartbeat_at < now(-v.dead_after)
				     AND v.heartbeat_at < now(-i.dead_after / 2 - 2 * v.heartbeat_interval) -- as long as the judge may have stood still unnoticed
				     OR v.heartbeat_at > `+q.db.Clock()+`) -- from before the clock was set back: who lives has beaten since
				ORDER BY v.heartbeat_at LIMIT $2 FOR UPDATE OF v SKIP LOCKED`), judge, recoveredAtOnce); err != nil {
				return err
			}
			found = len(silent)
			gone, refusal, err = q.forget(ctx, tx, silent, abandoned)
			return err
		})
		if err != nil {
			return dead, fmt.Errorf("recover the runs of dead instances: %w", err)
		}
		dead = append(dead, gone...)
		if refusal != nil {
			refusal = fmt.Errorf("recover the runs of dead instances: %w", refusal)
		}
		if found < recoveredAtOnce || len(gone) == 0 {
			return dead, refusal
		}
	}
}

// recoveredAtOnce bounds one transaction of Recover, so that finished batches stay done
// when time is short.
const recoveredAtOnce = 100

// leaving says what becomes of the runs that an instance leaves behind.
type leaving struct {
	failure store.Failure
	refund  int // tries given back
}

var (
	interrupted = leaving{store.Failure{Kind: store.KindInterrupted, Message: "the process shut down before the handler had ended"}, 1}
	abandoned   = leaving{store.Failure{Kind: store.KindAbandoned, Message: "the process died, or was silent for too long, while the handler ran"}, 0}
)

// forget makes the runs that the instances hold due again, except runs that are locked
// or refused, and stores the attempts. It removes the instances that no longer hold a
// run, and returns their ids. The caller has locked the instances.
func (q *Queue) forget(ctx context.Context, tx *sqlx.Tx, holders []holder, l leaving) (gone []string, refusal, err error) {
	runs, err := q.heldBy(ctx, tx, holders)
	if err != nil || len(holders) == 0 {
		return nil, nil, err
	}
	left := map[string]map[int64]bool{} // runs that are still held, by instance
	for _, h := range holders {
		left[h.ID] = map[int64]bool{}
	}
	for _, r := range runs {
		left[r.Instance][r.ID] = true
	}
	for chunk := range slices.Chunk(runs, store.MaxLimit) {
		ids := make([]any, len(chunk))
		for i, r := range chunk {
			ids[i] = r.ID
		}
		var locked []heldRun
		if err := tx.SelectContext(ctx, &locked, q.db.Compose(heldRuns+`id IN `+sqldb.Parameters(1, len(ids))+` FOR UPDATE SKIP LOCKED`), ids...); err != nil {
			return nil, nil, err
		}
		var unlocked []int64
		holds := map[int64]string{}
		for _, r := range locked {
			if left[r.Instance][r.ID] { // else another instance has claimed it meanwhile
				delete(left[r.Instance], r.ID)
				unlocked, holds[r.ID] = append(unlocked, r.ID), r.Instance
			}
		}
		refused, why, err := q.leaveEach(ctx, tx, unlocked, l)
		if err != nil {
			return nil, nil, err
		}
		for _, id := range refused {
			left[holds[id]][id] = true
		}
		refusal = cmp.Or(refusal, why)
	}
	for _, h := range holders {
		if len(left[h.ID]) == 0 {
			gone = append(gone, h.ID)
			continue
		}
		if err := q.keep(ctx, tx, h, slices.Collect(maps.Keys(left[h.ID]))); err != nil {
			return nil, nil, err
		}
	}
	if len(gone) == 0 {
		return nil, refusal, nil
	}
	_, err = tx.ExecContext(ctx, q.db.SQL(removeInstances), q.db.Texts(gone))
	return gone, refusal, err
}

// keep writes which runs an instance still holds, so that the next caller does not read
// all newer runs. A statement that the server has not executed yet can only lease a run
// with a higher id than any now. For a process of version 1 keep writes nothing,
// because that process would not keep the value true.
func (q *Queue) keep(ctx context.Context, tx *sqlx.Tx, h holder, runs []int64) error {
	if h.Old {
		return nil
	}
	_, err := tx.ExecContext(ctx, q.db.SQL(keepHeld), h.ID, q.db.IDs(runs), slices.Min(runs))
	return err
}

// leaveEach is leave for every run that the database does not refuse. It returns the
// refused runs, and the reason for one of them.
func (q *Queue) leaveEach(ctx context.Context, tx *sqlx.Tx, runs []int64, l leaving) (refused []int64, why, err error) {
	if len(runs) == 0 {
		return nil, nil, nil
	}
	if _, err := tx.ExecContext(ctx, `SAVEPOINT leaving`); err != nil {
		return nil, nil, err
	}
	why = q.leave(ctx, tx, runs, l)
	if why == nil {
		_, err := tx.ExecContext(ctx, `RELEASE SAVEPOINT leaving`)
		return nil, nil, err
	}
	if !sqldb.Answered(why) || sqldb.Collided(why) {
		return nil, nil, why
	}
	if _, err := tx.ExecContext(ctx, `ROLLBACK TO SAVEPOINT leaving`); err != nil {
		return nil, nil, errors.Join(why, err)
	}
	if len(runs) == 1 {
		return runs, fmt.Errorf("run %d: %w", runs[0], why), nil
	}
	for _, half := range [][]int64{runs[:len(runs)/2], runs[len(runs)/2:]} {
		some, reason, err := q.leaveEach(ctx, tx, half, l)
		if err != nil {
			return nil, nil, err
		}
		refused, why = append(refused, some...), cmp.Or(reason, why)
	}
	if len(refused) == 0 { // each half alone is accepted
		why = nil
	}
	return refused, why, nil
}

// leave makes runs due again that their instances leave behind.
func (q *Queue) leave(ctx context.Context, tx *sqlx.Tx, runs []int64, l leaving) error {
	if _, err := tx.ExecContext(ctx, q.db.SQL(keepAttempts), string(l.failure.Kind), l.failure.Message, q.db.IDs(runs)); err != nil {
		return sqldb.RowError(err)
	}
	_, err := tx.ExecContext(ctx, q.db.SQL(makeDue), string(l.failure.Kind), l.failure.Message, l.refund, q.db.IDs(runs))
	return err
}
