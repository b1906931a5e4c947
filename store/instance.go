package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
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
		INSERT INTO reprise.instances (id, host, pid, build, handlers) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO UPDATE SET handlers = excluded.handlers, heartbeat_at = now()`),
		i.ID, i.Host, i.PID, i.Build, string(handlers)); err != nil {
		return fmt.Errorf("register instance %s: %w", i.ID, err)
	}
	return nil
}

// Deregister forgets the instance. Runs that it still holds are due again,
// without losing the attempt.
func (s *Store) Deregister(ctx context.Context, id string) error {
	err := s.inTx(ctx, func(tx *sqlx.Tx) error {
		return s.release(ctx, tx, id, KindInterrupted, "the process shut down before the handler had ended", true)
	})
	if err != nil {
		return fmt.Errorf("deregister instance %s: %w", id, err)
	}
	return nil
}

// Heartbeat says that the instance is alive, or returns ErrInstanceGone.
func (s *Store) Heartbeat(ctx context.Context, id string) error {
	result, err := s.db.ExecContext(ctx, s.sql(`UPDATE reprise.instances SET heartbeat_at = now() WHERE id = $1`), id)
	if err != nil {
		return fmt.Errorf("heartbeat of instance %s: %w", id, err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, fmt.Errorf("%w: %s", ErrInstanceGone, id))
	}
	return nil
}

// Recover makes the runs of dead instances due again and forgets those
// instances: dead is one whose last heartbeat is older than silence by the
// database's clock. What the handlers had begun is kept as abandoned attempts.
// It returns the dead instances' ids. Any number of instances may recover at
// once.
func (s *Store) Recover(ctx context.Context, silence time.Duration) (dead []string, err error) {
	const silent = `SELECT id FROM reprise.instances WHERE heartbeat_at < now($1)`
	if err := s.db.SelectContext(ctx, &dead, s.sql(silent), -silence.Seconds()); err != nil || len(dead) == 0 {
		return nil, err
	}
	err = s.inTx(ctx, func(tx *sqlx.Tx) error {
		dead = nil
		if err := tx.SelectContext(ctx, &dead, s.sql(silent+` FOR UPDATE SKIP LOCKED`), -silence.Seconds()); err != nil {
			return err
		}
		for _, id := range dead {
			if err := s.release(ctx, tx, id, KindAbandoned, "the process died, or was silent for too long, while the handler ran", false); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("recover the runs of dead instances: %w", err)
	}
	return dead, nil
}

// release makes every run that an instance holds due again, keeps its attempt
// under the given kind, and forgets the instance.
func (s *Store) release(ctx context.Context, tx *sqlx.Tx, instance string, kind Kind, message string, refund bool) error {
	const held = ` FROM reprise.handler_runs WHERE instance = $1 AND status = 'PENDING' AND due_at IS NULL`
	// Lock first: a run that ends meanwhile is not held when the lock is had.
	if _, err := tx.ExecContext(ctx, s.sql(`SELECT id`+held+` FOR UPDATE`), instance); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, s.sql(`
		INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, instance, started_at)
		SELECT id, attempt, cycle, $2, $3, instance, started_at`+held), instance, string(kind), message); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, s.sql(`
		UPDATE reprise.handler_runs
		SET instance = NULL, due_at = now(), error_kind = $2, error = $3, attempt = attempt - $4
		WHERE instance = $1 AND status = 'PENDING' AND due_at IS NULL`), instance, string(kind), message, btoi(refund)); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, s.sql(`DELETE FROM reprise.instances WHERE id = $1`), instance)
	return err
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
