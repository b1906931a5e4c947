package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// ErrInstanceGone is returned by Heartbeat when others have found the instance
// dead: the runs that it held are due again, or somebody else's.
var ErrInstanceGone = errors.New("the instance was found dead")

// Instance is one running process of the application.
type Instance struct {
	ID       string
	Host     string
	PID      int
	Build    string   // version of the application, as far as the binary tells
	Handlers []string // what it serves
}

// NewInstanceID returns an id that is unique and tells a reader of the tables
// where to look: host, process and a random part.
func NewInstanceID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%06x", host, os.Getpid(), rand.IntN(1<<24))
}

// Register makes the instance known, which it must be to claim runs; it is
// idempotent, and a heartbeat.
func (s *Store) Register(ctx context.Context, i Instance) error {
	handlers, err := json.Marshal(append([]string{}, i.Handlers...))
	if err != nil {
		return err
	}
	if _, err := s.db.ExecContext(ctx, s.sql(`
		INSERT INTO reprise.instances (id, host, pid, build, handlers, lowest_run)
		VALUES ($1, $2, $3, $4, $5, (SELECT coalesce(max(id), 0) FROM reprise.handler_runs))
		ON CONFLICT (id) DO UPDATE SET handlers = excluded.handlers, heartbeat_at = now()`),
		i.ID, i.Host, i.PID, i.Build, string(handlers)); err != nil {
		return fmt.Errorf("register instance %s: %w", i.ID, err)
	}
	return nil
}

// Pulse is what a heartbeat learns.
type Pulse struct {
	Claims int64 // of the instance that leased runs
	Others bool  // instances have been silent for longer than that: Recover has something to do
}

// Heartbeat says that the instance is alive and that no run which it holds has
// an id below lowest (0 says nothing of that), or returns ErrInstanceGone. The
// instance must not claim or record meanwhile.
func (s *Store) Heartbeat(ctx context.Context, id string, lowest int64, silence time.Duration) (pulse Pulse, err error) {
	rows, err := s.QueryPrepared(ctx, s.db, s.sql(`
		UPDATE reprise.instances
		SET heartbeat_at = now(), lowest_run = CASE WHEN CAST($2 AS bigint) > 0 THEN $2 ELSE lowest_run END
		WHERE id = $1
		RETURNING claims, EXISTS (SELECT 1 FROM reprise.instances o WHERE o.id <> $1 AND o.heartbeat_at < now($3))`),
		id, lowest, -silence.Seconds())
	if err != nil {
		return pulse, fmt.Errorf("heartbeat of instance %s: %w", id, err)
	}
	defer rows.Close()
	known := rows.Next()
	if known {
		err = rows.Scan(&pulse.Claims, &pulse.Others)
	}
	if err := errors.Join(err, rows.Err()); err != nil {
		return pulse, fmt.Errorf("heartbeat of instance %s: %w", id, err)
	}
	if !known {
		return pulse, fmt.Errorf("%w: %s", ErrInstanceGone, id)
	}
	return pulse, nil
}

// held selects the runs that the instance $1 holds, without a look at history.
const held = ` FROM reprise.handler_runs
	WHERE id >= (SELECT lowest_run FROM reprise.instances WHERE id = $1)
	AND instance = $1 AND status = 'PENDING' AND due_at IS NULL`

// Held returns the leases that the instance holds by the database: one more
// than the instance knows of is a claim whose answer it never got.
func (s *Store) Held(ctx context.Context, id string) ([]Lease, error) {
	var rows []claimedRow
	if err := s.db.SelectContext(ctx, &rows, s.sql(`SELECT id AS run_id, attempt`+held+` ORDER BY id`), id); err != nil {
		return nil, fmt.Errorf("read the leases of instance %s: %w", id, err)
	}
	leases := make([]Lease, len(rows))
	for i, r := range rows {
		leases[i] = Lease{RunID: r.RunID, Instance: id, Attempt: r.Attempt}
	}
	return leases, nil
}

// Deregister forgets the instance. Runs that it still holds are due again,
// without losing the try. Should one of them be locked, by a transaction of the
// instance's that has not ended, it is left for Recover.
func (s *Store) Deregister(ctx context.Context, id string) error {
	err := s.inTx(ctx, func(tx *sqlx.Tx) error {
		// A claim or an insert that is under way has ended when the lock is had.
		var own []holder
		if err := tx.SelectContext(ctx, &own, s.sql(`SELECT id, lowest_run FROM reprise.instances WHERE id = $1 FOR UPDATE`), id); err != nil {
			return err
		}
		_, err := s.forget(ctx, tx, own, interrupted)
		return err
	})
	if err != nil {
		return fmt.Errorf("deregister instance %s: %w", id, err)
	}
	return nil
}

// Recover makes the runs of dead instances due again and forgets those
// instances: dead is one whose last heartbeat is older than silence by the
// database's clock. What the handlers had begun is kept as abandoned attempts.
// It returns the ids of the dead instances that are forgotten. Any number of
// instances may recover at once.
//
// What a transaction keeps locked, one that a dead process has left open or a
// statement of its that the server still works on, is left for the next time;
// nothing else waits for it.
func (s *Store) Recover(ctx context.Context, silence time.Duration) (dead []string, err error) {
	for {
		var found, gone []string
		err := s.inTx(ctx, func(tx *sqlx.Tx) (err error) {
			found, gone = nil, nil
			var silent []holder
			if err := tx.SelectContext(ctx, &silent, s.sql(`
				SELECT id, lowest_run FROM reprise.instances WHERE heartbeat_at < now($1)
				ORDER BY heartbeat_at LIMIT $2 FOR UPDATE SKIP LOCKED`), -silence.Seconds(), recoveredAtOnce); err != nil {
				return err
			}
			for _, h := range silent {
				found = append(found, h.ID)
			}
			gone, err = s.forget(ctx, tx, silent, abandoned)
			return err
		})
		if err != nil {
			return dead, fmt.Errorf("recover the runs of dead instances: %w", err)
		}
		dead = append(dead, gone...)
		if len(found) < recoveredAtOnce || len(gone) == 0 {
			return dead, nil
		}
	}
}

// recoveredAtOnce bounds a transaction of Recover: when time is short, what it
// has done before is done.
const recoveredAtOnce = 100

// holder is an instance and where its runs begin.
type holder struct {
	ID     string `db:"id"`
	Lowest int64  `db:"lowest_run"`
}

// leaving is what becomes of the runs that an instance leaves behind.
type leaving struct {
	failure Failure
	refund  int // tries given back
}

var (
	interrupted = leaving{Failure{Kind: KindInterrupted, Message: "the process shut down before the handler had ended"}, 1}
	abandoned   = leaving{Failure{Kind: KindAbandoned, Message: "the process died, or was silent for too long, while the handler ran"}, 0}
)

// forget makes the runs that instances hold due again, but for those that are
// locked, and keeps the attempts. It removes the instances that hold nothing any
// more, and returns their ids. The instances are locked. Their runs are found
// by one look at what is not older than the oldest of them: the more instances
// are dead, the longer ago that may be.
func (s *Store) forget(ctx context.Context, tx *sqlx.Tx, holders []holder, l leaving) (gone []string, err error) {
	if len(holders) == 0 {
		return nil, nil
	}
	lowest := slices.MinFunc(holders, func(a, b holder) int { return cmp.Compare(a.Lowest, b.Lowest) }).Lowest
	args := []any{lowest}
	for _, h := range holders {
		args = append(args, h.ID)
	}
	var runs []struct {
		ID       int64  `db:"id"`
		Instance string `db:"instance"`
	}
	const heldBy = ` AND status = 'PENDING' AND due_at IS NULL AND instance IN `
	if err := tx.SelectContext(ctx, &runs, s.compose(`
		SELECT id, instance FROM reprise.handler_runs WHERE id >= $1`+heldBy+parameters(2, len(holders))), args...); err != nil {
		return nil, err
	}
	left := map[string]int{} // runs that are held, by instance
	for _, r := range runs {
		left[r.Instance]++
	}
	for chunk := range slices.Chunk(runs, MaxLimit) {
		ids := make([]any, len(chunk))
		for i, r := range chunk {
			ids[i] = r.ID
		}
		var locked []struct {
			ID       int64  `db:"id"`
			Instance string `db:"instance"`
		}
		if err := tx.SelectContext(ctx, &locked, s.compose(`
			SELECT id, instance FROM reprise.handler_runs WHERE id IN `+parameters(1, len(ids))+heldBy+parameters(1+len(ids), len(holders))+` FOR UPDATE SKIP LOCKED`), append(ids, args[1:]...)...); err != nil {
			return nil, err
		}
		if len(locked) == 0 {
			continue
		}
		ids = ids[:0]
		for _, r := range locked {
			ids = append(ids, r.ID)
			left[r.Instance]--
		}
		if err := s.leave(ctx, tx, ids, l); err != nil {
			return nil, err
		}
	}
	var empty []any
	for _, h := range holders {
		if left[h.ID] == 0 {
			gone, empty = append(gone, h.ID), append(empty, h.ID)
		}
	}
	if len(gone) == 0 {
		return nil, nil
	}
	_, err = tx.ExecContext(ctx, s.compose(`DELETE FROM reprise.instances WHERE id IN `+parameters(1, len(empty))), empty...)
	return gone, err
}

// leave makes runs due again that their instances leave behind.
func (s *Store) leave(ctx context.Context, tx *sqlx.Tx, runs []any, l leaving) error {
	if _, err := tx.ExecContext(ctx, s.compose(`
		INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, instance, started_at)
		SELECT id, attempt, cycle, $1, $2, instance, started_at FROM reprise.handler_runs WHERE id IN `+parameters(3, len(runs))),
		append([]any{string(l.failure.Kind), l.failure.Message}, runs...)...); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, s.compose(`
		UPDATE reprise.handler_runs
		SET instance = NULL, due_at = now(), error_kind = $1, error = $2, fingerprint = NULL, tries = tries - $3
		WHERE id IN `+parameters(4, len(runs))), append([]any{string(l.failure.Kind), l.failure.Message, l.refund}, runs...)...)
	return err
}

// parameters returns ($first, …), n of them.
func parameters(first, n int) string {
	marks := make([]string, n)
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", first+i)
	}
	return "(" + strings.Join(marks, ", ") + ")"
}
