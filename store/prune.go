package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/actions"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Prune says what may be deleted: events that were published before a time and whose
// runs all ended before it, and events of the outbox that were sent or dropped. Failed
// runs and refused events stay. A DISCARDED run stays as long as its discard can be
// undone: until the discard is undone, or another operation takes the run up.
type Prune struct {
	Before    time.Time // by the database's clock
	Failed    bool      // also delete events with FAILED runs
	Discarded bool      // also delete events with runs whose discard can be undone
	DryRun    bool      // only count what would be deleted

	// By says who asks for the prune. Unless DryRun is set, an Action records it and
	// what was deleted; there is no Action when nothing is deleted. Daily adds to the
	// last prune Action of the same By if it is less than 24 hours old and deletes the
	// same kinds of runs. It is for a process that prunes again and again.
	By    By
	Daily bool
}

// Pruned is what was deleted.
type Pruned struct {
	Events   int64
	Runs     int64
	Outgoing int64 // events of the outbox
}

// pruning is a Prune in progress.
type pruning struct {
	Prune
	action *int64 // of the batches before; 0 for none yet
}

// Prune deletes old events, batch by batch. After each batch it calls progress, if it is
// not nil, with the totals so far. When ctx ends, the finished batches stay deleted. The
// default of By is the user that the process runs as.
func (s *Store) Prune(ctx context.Context, asked Prune, progress func(Pruned)) (total Pruned, err error) {
	if asked.By.Name == "" {
		asked.By.Name = actions.Whoami()
	}
	p := pruning{Prune: asked, action: new(int64)}
	for last, more := (*EventMark)(nil), true; more; more = last != nil {
		var deleted Pruned
		if deleted, last, err = s.pruneBatch(ctx, p, last); err != nil {
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

// pruneOutbox deletes the next batch of events that were sent or dropped.
func (s *Store) pruneOutbox(ctx context.Context, p pruning) (n int64, err error) {
	var action int64
	if err = s.db.InTx(ctx, func(tx *sqlx.Tx) (err error) {
		if n, err = s.db.Change(ctx, tx, s.db.Compose(fmt.Sprintf(`
			DELETE FROM reprise.outbox WHERE id IN (
				SELECT id FROM reprise.outbox
				WHERE written_at < $1 AND state IN ('SENT', 'DROPPED') AND coalesce(sent_at, written_at) < $1
				ORDER BY written_at LIMIT %d)`, pruneLook)), s.db.Time(p.Before)); err != nil {
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

// pruned records what a transaction has deleted, and returns the id of the action.
func (s *Store) pruned(ctx context.Context, tx *sqlx.Tx, p pruning, deleted Pruned) (action int64, err error) {
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
		if action, err = actions.Write(ctx, s.db, tx, actions.Action{
			Kind: string(Pruning), Of: actions.Selection{Before: p.Before, Failed: p.Failed, Discarded: p.Discarded}, Name: p.By.Name, Reason: p.By.Reason,
		}); err != nil {
			return 0, err
		}
	}
	return action, actions.Count(ctx, s.db, tx, action, deleted.Runs, deleted.Events, deleted.Outgoing)
}

// ofToday returns the id of the action to which a daily prune adds, or 0, and updates
// the action's Before.
func (s *Store) ofToday(ctx context.Context, tx *sqlx.Tx, p pruning) (int64, error) {
	var last struct {
		ID        int64  `db:"id"`
		Selection []byte `db:"selection"`
	}
	err := tx.GetContext(ctx, &last, s.db.SQL(`
		SELECT id, selection FROM (SELECT * FROM reprise.actions ORDER BY id DESC LIMIT 1000) newest
		WHERE kind = 'prune' AND requested_by = $1 AND reason = $2 AND at > now(-86400) ORDER BY id DESC LIMIT 1`),
		sqldb.Printable(p.By.Name, sqldb.MaxName), sqldb.Printable(p.By.Reason, sqldb.MaxMessage))
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var of actions.Selection
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
			ORDER BY written_at, id LIMIT %d`, pruneLook)), s.db.Time(last.WrittenAt.Time), last.ID, s.db.Time(before)); err != nil {
			return fmt.Errorf("count what is to be pruned of the outbox: %w", err)
		}
		if more = len(batch) == pruneLook; len(batch) > 0 {
			last = batch[len(batch)-1]
			counted(int64(len(batch)))
		}
	}
	return nil
}

// pruner is a transaction, or the pool if the prune only counts.
type pruner interface {
	GetContext(ctx context.Context, into any, query string, args ...any) error
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// pruneTx runs f in a transaction, unless f only counts. On SQLite, the transaction
// takes the write lock.
func (s *Store) pruneTx(ctx context.Context, dryRun bool, f func(tx pruner) error) error {
	if dryRun {
		return f(s.db)
	}
	return s.db.InTx(ctx, func(tx *sqlx.Tx) error { return f(tx) })
}

// PruneBatch deletes the next batch of events and everything that belongs to them, in
// one short transaction. The batch begins after the event after, or at the oldest event
// if after is nil. PruneBatch returns the last event of this batch; nil when no events
// are left. An event and its runs are deleted together, because the existing run of a
// known event keeps the event from being handled again.
func (s *Store) PruneBatch(ctx context.Context, p Prune, after *EventMark) (deleted Pruned, last *EventMark, err error) {
	return s.pruneBatch(ctx, pruning{Prune: p}, after)
}

func (s *Store) pruneBatch(ctx context.Context, p pruning, after *EventMark) (deleted Pruned, last *EventMark, err error) {
	if p.Before.IsZero() {
		return deleted, nil, errors.New("prune: the time is not set: set Before")
	}
	if err := (Filter{Until: p.Before}).Validate(); err != nil {
		return deleted, nil, fmt.Errorf("prune: %w", err)
	}
	if err := after.Validate(); err != nil {
		return deleted, nil, fmt.Errorf("prune: %w", err)
	}
	if err := p.By.Validate(); err != nil && !p.DryRun {
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
			ORDER BY e.published_at, e.id LIMIT 1 OFFSET %d`, pruneLook-1)), s.db.Time(after.At), after.ID, s.db.Time(p.Before))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			mark.At.Time = p.Before
		case err != nil:
			return err
		default:
			last = &EventMark{At: mark.At.Time, ID: mark.ID}
		}
		args := []any{s.db.Time(after.At), after.ID, s.db.Time(p.Before), s.db.Time(mark.At.Time), mark.ID, p.Failed, p.Discarded}
		change := func(query string) (n int64, err error) {
			result, err := tx.ExecContext(ctx, s.db.SQL(query), args...)
			if err != nil {
				return 0, err
			}
			return result.RowsAffected()
		}
		if p.DryRun {
			return errors.Join(
				tx.GetContext(ctx, &deleted.Runs, s.db.SQL(countPrunedRuns), args...),
				tx.GetContext(ctx, &deleted.Events, s.db.SQL(countPrunedEvents), args...))
		}
		// The runs are locked first, so that a run that was taken up meanwhile is seen
		// and kept.
		if _, err := tx.ExecContext(ctx, s.db.SQL(lockPruned), args...); err != nil {
			return err
		}
		// Cascades do not work in every session: SQLite needs foreign_keys, and
		// PostgreSQL's session_replication_role can turn them off.
		for _, rest := range []string{pruneOperationRuns, pruneAttempts} {
			if _, err = change(rest); err != nil {
				return err
			}
		}
		if deleted.Runs, err = change(pruneRuns); err != nil {
			return err
		}
		if deleted.Events, err = change(pruneEvents); err != nil {
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

// pruneLook is how many events one batch looks at.
const pruneLook = 1000
