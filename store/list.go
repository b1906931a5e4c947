package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Runs returns a page of the runs that the filter selects, newest first. The
// next page is the same filter with Before set to the last run's id; a page
// shorter than the limit is the last.
func (s *Store) Runs(ctx context.Context, f Filter) ([]Run, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if f.Limit == 0 {
		f.Limit = DefaultLimit
	}
	where, args := s.where(f)
	var rows []runRow
	err := s.db.SelectContext(ctx, &rows, s.compose(fmt.Sprintf(
		`SELECT %s FROM reprise.handler_runs r WHERE %s ORDER BY r.id DESC LIMIT $%d`, runColumns, where, len(args)+1)),
		append(args, f.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	runs := make([]Run, len(rows))
	for i, r := range rows {
		runs[i] = r.run()
	}
	return runs, nil
}

// Run returns a run by its id, or ErrNotFound.
func (s *Store) Run(ctx context.Context, id int64) (Run, error) {
	var row runRow
	err := s.db.GetContext(ctx, &row, s.sql(`SELECT `+runColumns+` FROM reprise.handler_runs r WHERE r.id = $1`), id)
	if errors.Is(err, sql.ErrNoRows) {
		return Run{}, fmt.Errorf("run %d: %w", id, ErrNotFound)
	}
	if err != nil {
		return Run{}, fmt.Errorf("read run %d: %w", id, err)
	}
	return row.run(), nil
}

// Await returns a run as it is when the transaction that has it locked, if one
// has, is over, or ErrNotFound.
func (s *Store) Await(ctx context.Context, id int64) (Run, error) {
	if _, err := s.db.ExecContext(ctx, s.sql(`SELECT id FROM reprise.handler_runs WHERE id = $1 FOR UPDATE`), id); err != nil {
		return Run{}, fmt.Errorf("wait for run %d: %w", id, err)
	}
	return s.Run(ctx, id)
}

// Attempts returns the failed and abandoned attempts of a run, oldest first;
// none for an unknown run.
func (s *Store) Attempts(ctx context.Context, runID int64) ([]Attempt, error) {
	var rows []attemptRow
	err := s.db.SelectContext(ctx, &rows, s.sql(`
		SELECT run_id, attempt, cycle, kind, message, coalesce(stack, '') AS stack,
		       coalesce(instance, '') AS instance, started_at, finished_at
		FROM reprise.run_attempts WHERE run_id = $1 ORDER BY id`), runID)
	if err != nil {
		return nil, fmt.Errorf("read the attempts of run %d: %w", runID, err)
	}
	attempts := make([]Attempt, len(rows))
	for i, r := range rows {
		attempts[i] = r.attempt()
	}
	return attempts, nil
}

// Event returns an event of a topic by its id, or ErrNotFound.
func (s *Store) Event(ctx context.Context, topic, id string) (Event, error) {
	return s.event(ctx, s.db, topic, id)
}

func (s *Store) event(ctx context.Context, q Queryer, topic, id string) (Event, error) {
	rows, err := q.QueryContext(ctx, s.sql(`SELECT `+eventColumns+` FROM reprise.events e WHERE e.id = $1 AND e.topic = $2`), id, topic)
	if err != nil {
		return Event{}, fmt.Errorf("read event %q: %w", id, err)
	}
	defer rows.Close()
	var found []eventRow
	if err := sqlx.StructScan(rows, &found); err != nil {
		return Event{}, fmt.Errorf("read event %q: %w", id, err)
	}
	if len(found) == 0 {
		return Event{}, fmt.Errorf("event %q of topic %q: %w", id, topic, ErrNotFound)
	}
	return found[0].event()
}

// time is a point in time as the database compares it, rounded up to the
// database's precision: what it keeps is before t, or not, either way.
func (s *Store) time(t time.Time) any {
	if s.kind == dialect.SQLite {
		return roundUp(t, time.Millisecond).Format(sqliteTime)
	}
	return roundUp(t, time.Microsecond)
}
