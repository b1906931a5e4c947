package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"time"

	"github.com/jmoiron/sqlx"
)

// Prune says what may be deleted: events that were published, and whose runs
// all ended, before a time; and what was sent from the outbox, or dropped. What
// failed or was refused stays, and so does a DISCARDED run as long as its discard
// can be undone: until the discard is undone, or another operation takes the run up.
type Prune struct {
	Before    time.Time // by the database's clock
	Failed    bool      // events with FAILED runs, too
	Discarded bool      // events with runs whose discard can be undone, too
	DryRun    bool      // only count what would be deleted

	// By is who wants it. Unless DryRun, an Action says so, and what was deleted;
	// there is none when nothing is. Daily adds it to the last action that prunes for
	// the same By, if that is of the last 24 hours and deletes the same kinds of
	// runs: for who prunes again and again.
	By    By
	Daily bool

	action *int64 // that of the batches before
}

// Pruned is what was deleted.
type Pruned struct {
	Events   int64
	Runs     int64
	Outgoing int64 // events in the outbox
}

// Prune deletes all that may be, batch by batch. progress, if it is not nil, is
// called after each batch with what is deleted so far; when ctx ends, that stays
// deleted.
func (s *Store) Prune(ctx context.Context, p Prune, progress func(Pruned)) (total Pruned, err error) {
	p.action = new(int64)
	for last, more := (*EventMark)(nil), true; more; more = last != nil {
		var deleted Pruned
		if deleted, last, err = s.PruneBatch(ctx, p, last); err != nil {
			return total, err
		}
		total.Events += deleted.Events
		total.Runs += deleted.Runs
		if progress != nil {
			progress(total)
		}
	}
	if p.DryRun {
		return total, s.countOutbox(ctx, p.Before, func(n int64) {
			total.Outgoing += n
			if progress != nil {
				progress(total)
			}
		})
	}
	for n := int64(pruneLook); n == pruneLook; {
		if n, err = s.pruneOutbox(ctx, p); err != nil {
			return total, err
		}
		total.Outgoing += n
		if progress != nil {
			progress(total)
		}
	}
	return total, nil
}

// pruneOutbox deletes the next batch of what was sent or dropped.
func (s *Store) pruneOutbox(ctx context.Context, p Prune) (n int64, err error) {
	var action int64
	if err = s.db.InTx(ctx, func(tx *sqlx.Tx) (err error) {
		if n, err = s.db.Change(ctx, tx, s.db.Compose(fmt.Sprintf(`
			DELETE FROM reprise.outbox WHERE id IN (
				SELECT id FROM reprise.outbox
				WHERE written_at < $1 AND state IN ('SENT', 'DROPPED') AND coalesce(sent_at, written_at) < $1
				ORDER BY written_at LIMIT %d)`, pruneLook)), s.time(p.Before)); err != nil {
			return err
		}
		action, err = s.pruned(ctx, tx, p, Pruned{Outgoing: n})
		return err
	}); err != nil {
		return 0, fmt.Errorf("prune the outbox: %w", err)
	}
	*p.action = action
	return n, nil
}

// pruned puts on record what a transaction has deleted, and returns the number of
// the action.
func (s *Store) pruned(ctx context.Context, tx *sqlx.Tx, p Prune, deleted Pruned) (action int64, err error) {
	if p.action != nil {
		action = *p.action
	}
	if deleted == (Pruned{}) {
		return action, nil
	}
	if action == 0 && p.Daily {
		if action, err = s.ofToday(ctx, tx, p); err != nil {
			return 0, err
		}
	}
	if action == 0 {
		if action, err = s.act(ctx, tx, Action{Kind: Pruning, Before: p.Before, Failed: p.Failed, Discarded: p.Discarded, By: p.By}); err != nil {
			return 0, err
		}
	}
	return action, s.acted(ctx, tx, action, deleted)
}

// ofToday returns the number of the action that a daily prune adds to, 0 for none,
// and notes in it until when it has pruned by now.
func (s *Store) ofToday(ctx context.Context, tx *sqlx.Tx, p Prune) (int64, error) {
	var last struct {
		ID        int64  `db:"id"`
		Selection []byte `db:"selection"`
	}
	err := tx.GetContext(ctx, &last, s.db.SQL(`
		SELECT id, selection FROM (SELECT * FROM reprise.actions ORDER BY id DESC LIMIT 1000) newest
		WHERE kind = 'prune' AND requested_by = $1 AND reason = $2 AND at > now(-86400) ORDER BY id DESC LIMIT 1`),
		printable(p.By.Name, maxName), printable(p.By.Reason, maxMessage))
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var of actionSelection
	if err := json.Unmarshal(last.Selection, &of); err != nil || of.Failed != p.Failed || of.Discarded != p.Discarded {
		return 0, err
	}
	of.Before = p.Before
	selection, err := json.Marshal(of)
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, s.db.SQL(`UPDATE reprise.actions SET selection = $2 WHERE id = $1`), last.ID, string(selection))
	return last.ID, err
}

// countOutbox counts, batch by batch, what pruneOutbox would delete.
func (s *Store) countOutbox(ctx context.Context, before time.Time, counted func(int64)) error {
	type place struct {
		WrittenAt sqldb.Time `db:"written_at"`
		ID        int64      `db:"id"`
	}
	var last place
	for more := true; more; {
		var batch []place
		if err := s.db.SelectContext(ctx, &batch, s.db.SQL(fmt.Sprintf(`
			SELECT written_at, id FROM reprise.outbox
			WHERE (written_at, id) > ($1, $2) AND written_at < $3 AND state IN ('SENT', 'DROPPED') AND coalesce(sent_at, written_at) < $3
			ORDER BY written_at, id LIMIT %d`, pruneLook)), s.time(last.WrittenAt.Time), last.ID, s.time(before)); err != nil {
			return fmt.Errorf("count what is to be pruned of the outbox: %w", err)
		}
		if more = len(batch) == pruneLook; len(batch) > 0 {
			last = batch[len(batch)-1]
			counted(int64(len(batch)))
		}
	}
	return nil
}

// pruner is a transaction, or the pool for who only counts.
type pruner interface {
	GetContext(ctx context.Context, into any, query string, args ...any) error
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// pruneTx runs f in a transaction, which on SQLite takes the write lock, unless
// f only counts.
func (s *Store) pruneTx(ctx context.Context, dryRun bool, f func(tx pruner) error) error {
	if dryRun {
		return f(s.db)
	}
	return s.db.InTx(ctx, func(tx *sqlx.Tx) error { return f(tx) })
}

// PruneBatch deletes the next batch of events with all that belongs to them, in
// one short transaction, beginning after a batch's last event, if that is not
// nil. It returns the last one of this batch, nil when there are none left.
// Event and runs go together: a run whose event stays is what keeps the event
// from being handled again.
func (s *Store) PruneBatch(ctx context.Context, p Prune, after *EventMark) (deleted Pruned, last *EventMark, err error) {
	if p.Before.IsZero() {
		return deleted, nil, errors.New("prune: the time is not set: set Before")
	}
	if errs := validWindow(time.Time{}, p.Before); len(errs) > 0 {
		return deleted, nil, fmt.Errorf("prune: %w", errors.Join(errs...))
	}
	if err := after.validate(); err != nil {
		return deleted, nil, fmt.Errorf("prune: %w", err)
	}
	if err := p.By.validate(); err != nil && !p.DryRun {
		return deleted, nil, fmt.Errorf("prune: %w", err)
	}
	if after == nil {
		after = &EventMark{}
	}
	var action int64
	err = s.pruneTx(ctx, p.DryRun, func(tx pruner) error {
		deleted, last = Pruned{}, nil
		var mark struct {
			At sqldb.Time `db:"published_at"`
			ID string     `db:"id"`
		}
		err := tx.GetContext(ctx, &mark, s.db.SQL(fmt.Sprintf(`
			SELECT e.published_at, e.id FROM reprise.events e
			WHERE (e.published_at, e.id) > ($1, $2) AND e.published_at < $3
			ORDER BY e.published_at, e.id LIMIT 1 OFFSET %d`, pruneLook-1)), s.time(after.At), after.ID, s.time(p.Before))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			mark.At.Time = p.Before
		case err != nil:
			return err
		default:
			last = &EventMark{At: mark.At.Time, ID: mark.ID}
		}
		keep := `r.status = 'PENDING' OR r.finished_at >= $3`
		if !p.Failed {
			keep += ` OR r.failed_at IS NOT NULL`
		}
		if !p.Discarded {
			keep += ` OR r.discarded_at IS NOT NULL AND EXISTS (
				SELECT 1 FROM reprise.operations o
				WHERE o.id = (SELECT max(t.operation_id) FROM reprise.operation_runs t WHERE t.run_id = r.id) AND o.kind = 'discard' AND o.state <> 'undone')`
		}
		old := `FROM reprise.events e
			WHERE (e.published_at, e.id) > ($1, $2) AND (e.published_at, e.id) <= ($4, $5) AND e.published_at < $3
			AND NOT EXISTS (SELECT 1 FROM reprise.handler_runs r WHERE r.event_id = e.id AND r.topic = e.topic AND (` + keep + `))`
		args := []any{s.time(after.At), after.ID, s.time(p.Before), s.time(mark.At.Time), mark.ID}
		count := func(query string) (n int64, err error) {
			result, err := tx.ExecContext(ctx, s.db.Compose(query), args...)
			if err != nil {
				return 0, err
			}
			return result.RowsAffected()
		}
		if p.DryRun {
			return errors.Join(
				tx.GetContext(ctx, &deleted.Runs, s.db.Compose(`SELECT count(*) FROM reprise.handler_runs WHERE (event_id, topic) IN (SELECT e.id, e.topic `+old+`)`), args...),
				tx.GetContext(ctx, &deleted.Events, s.db.Compose(`SELECT count(*) `+old), args...))
		}
		// Locked first: what is taken up meanwhile is then seen, and kept.
		if _, err := tx.ExecContext(ctx, s.db.Compose(`
			SELECT r.id FROM reprise.handler_runs r WHERE (r.event_id, r.topic) IN (SELECT e.id, e.topic `+old+`) ORDER BY r.id FOR UPDATE`), args...); err != nil {
			return err
		}
		// No database cascades in every session: SQLite does where foreign_keys is on,
		// PostgreSQL unless session_replication_role says otherwise.
		for _, table := range []string{"operation_runs", "run_attempts"} {
			if _, err = count(`
				DELETE FROM reprise.` + table + ` WHERE run_id IN (
					SELECT r.id FROM reprise.handler_runs r WHERE (r.event_id, r.topic) IN (SELECT e.id, e.topic ` + old + `))`); err != nil {
				return err
			}
		}
		if deleted.Runs, err = count(`DELETE FROM reprise.handler_runs WHERE (event_id, topic) IN (SELECT e.id, e.topic ` + old + `)`); err != nil {
			return err
		}
		if deleted.Events, err = count(`DELETE FROM reprise.events WHERE (id, topic) IN (SELECT e.id, e.topic ` + old + `)`); err != nil {
			return err
		}
		action, err = s.pruned(ctx, tx.(*sqlx.Tx), p, deleted)
		return err
	})
	if err != nil {
		return Pruned{}, nil, fmt.Errorf("prune: %w", err)
	}
	if p.action != nil {
		*p.action = action
	}
	return deleted, last, nil
}

// pruneLook is how many events a batch looks at.
const pruneLook = 1000
