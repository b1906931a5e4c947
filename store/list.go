package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// These limits bound what one statement reads when no index offers the selection in
// order: the statement looks at so many runs. A condition on the payload reads an event
// for each run, and gets the smallest limit.
const (
	pageLook    = 10_000
	countLook   = 20_000
	payloadLook = 3_000
)

func lookFor(f Filter, most int) int {
	if len(f.Payload) > 0 {
		return min(most, payloadLook)
	}
	return most
}

// Page is one page of the runs that a filter selects, newest first.
type Page struct {
	Runs []Run
	Next int64 // Filter.Before of the next page; 0 on the last page
}

// Page returns a page of the runs that the filter selects. A page before the last may
// hold fewer runs than the limit, even none: one call looks at a bounded number of
// runs, so that its time does not depend on the size of history.
func (s *Store) Page(ctx context.Context, f Filter) (page Page, err error) {
	if err := f.Validate(); err != nil {
		return page, err
	}
	if f.Limit == 0 {
		f.Limit = DefaultLimit
	}
	c := s.Conditions(f, 0, f.Before)
	most := lookFor(f, pageLook)
	offered, args := c.Look()
	from := `reprise.handler_runs r WHERE ` + offered
	if len(c.Rest) > 0 {
		from = fmt.Sprintf(`(SELECT * FROM reprise.handler_runs r WHERE %s ORDER BY r.id DESC LIMIT %d) r WHERE %s`,
			offered, most, sqldb.Conjunction(c.Rest))
	}
	var rows []runRow
	err = s.db.SelectContext(ctx, &rows, s.db.Compose(
		`SELECT `+runColumns+` FROM `+from+` ORDER BY r.id DESC LIMIT `+c.Arg(f.Limit)), c.Args...)
	if err != nil {
		return page, fmt.Errorf("list runs: %w", err)
	}
	page.Runs = make([]Run, len(rows))
	for i, r := range rows {
		page.Runs[i] = r.run()
	}
	switch {
	case len(rows) == f.Limit:
		page.Next = rows[len(rows)-1].ID
	case len(c.Rest) > 0: // find the last run that was looked at
		err = s.db.GetContext(ctx, &page.Next, s.db.Compose(fmt.Sprintf(
			`SELECT r.id FROM reprise.handler_runs r WHERE %s ORDER BY r.id DESC LIMIT 1 OFFSET %d`, offered, most-1)), args...)
		if errors.Is(err, sql.ErrNoRows) {
			return page, nil
		}
		if err != nil {
			return page, fmt.Errorf("list runs: %w", err)
		}
	}
	return page, nil
}

// Runs returns the newest runs that the filter selects, Limit of them unless there are
// fewer. It reads as many pages as it needs.
func (s *Store) Runs(ctx context.Context, f Filter) ([]Run, error) {
	if f.Limit == 0 {
		f.Limit = DefaultLimit
	}
	runs := []Run{}
	for {
		page, err := s.Page(ctx, f)
		if err != nil {
			return nil, err
		}
		runs = append(runs, page.Runs...)
		f.Limit -= len(page.Runs)
		f.Before = page.Next
		if f.Limit <= 0 || f.Before == 0 {
			return runs, nil
		}
	}
}

// MaxCount is the highest number that Count counts to.
const MaxCount = 10_000

// Count is a number, or a lower bound if More is set.
type Count struct {
	N    int64 `json:"count"`
	More bool  `json:"more"` // there are, or may be, more than N
}

// String returns N, followed by "+" if More is set.
func (c Count) String() string {
	if c.More {
		return fmt.Sprintf("%d+", c.N)
	}
	return fmt.Sprint(c.N)
}

// Count counts the runs that the filter selects and ignores its page. It counts up to
// MaxCount, among a bounded number of the newest runs.
func (s *Store) Count(ctx context.Context, f Filter) (Count, error) {
	f.Before, f.Limit = 0, 0
	if err := f.Validate(); err != nil {
		return Count{}, err
	}
	return s.count(ctx, s.Conditions(f, 0, 0), MaxCount, lookFor(f, countLook))
}

func (s *Store) count(ctx context.Context, c *sqldb.Conditions, most int64, look int) (count Count, err error) {
	offered, _ := c.Look()
	// ORDER BY makes the database read an index. The table itself may begin with a
	// million deleted rows.
	query := fmt.Sprintf(`SELECT count(*) AS n, 0 AS looked FROM (SELECT 1 FROM reprise.handler_runs r WHERE %s ORDER BY r.id DESC LIMIT %d) r`, offered, most+1)
	if len(c.Rest) > 0 {
		query = fmt.Sprintf(`
			SELECT coalesce(sum(CASE WHEN %s THEN 1 ELSE 0 END), 0) AS n, count(*) AS looked
			FROM (SELECT * FROM reprise.handler_runs r WHERE %s ORDER BY r.id DESC LIMIT %d) r`, sqldb.Conjunction(c.Rest), offered, look)
	}
	var found struct{ N, Looked int64 }
	if err := s.db.GetContext(ctx, &found, s.db.Compose(query), c.Args...); err != nil {
		return count, fmt.Errorf("count runs: %w", err)
	}
	return Count{N: min(found.N, most), More: found.N > most || found.Looked == int64(look)}, nil
}

// Run returns the run with the id, or ErrNotFound.
func (s *Store) Run(ctx context.Context, id int64) (Run, error) {
	return s.RunTx(ctx, s.db, id)
}

// RunTx is Run in a transaction.
func (s *Store) RunTx(ctx context.Context, tx Getter, id int64) (Run, error) {
	var row runRow
	err := tx.GetContext(ctx, &row, s.db.SQL(`SELECT `+runColumns+` FROM reprise.handler_runs r WHERE r.id = $1`), id)
	if errors.Is(err, sql.ErrNoRows) {
		return Run{}, fmt.Errorf("run %d: %w", id, ErrNotFound)
	}
	if err != nil {
		return Run{}, fmt.Errorf("read run %d: %w", id, err)
	}
	return row.run(), nil
}

// Await waits until no other transaction has the run locked, and returns the run, or
// ErrNotFound.
func (s *Store) Await(ctx context.Context, id int64) (Run, error) {
	if _, err := s.db.ExecContext(ctx, s.db.SQL(`SELECT id FROM reprise.handler_runs WHERE id = $1 FOR UPDATE`), id); err != nil {
		return Run{}, fmt.Errorf("wait for run %d: %w", id, err)
	}
	return s.Run(ctx, id)
}

// Attempts returns the failed and abandoned attempts of a run, oldest first. For an
// unknown run it returns none.
func (s *Store) Attempts(ctx context.Context, runID int64) ([]Attempt, error) {
	var rows []attemptRow
	err := s.db.SelectContext(ctx, &rows, s.db.SQL(`
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

// Getter reads one row, like *sqlx.Tx.
type Getter interface {
	GetContext(ctx context.Context, into any, query string, args ...any) error
}

// Selecter reads rows, like *sqlx.Tx.
type Selecter interface {
	SelectContext(ctx context.Context, into any, query string, args ...any) error
}

// Event returns the event with the id on the topic, or ErrNotFound.
func (s *Store) Event(ctx context.Context, topic, id string) (Event, error) {
	return s.EventTx(ctx, s.db, topic, id)
}

// EventTx is Event in a transaction.
func (s *Store) EventTx(ctx context.Context, q Getter, topic, id string) (Event, error) {
	if !sqldb.Keepable(topic, id) {
		return Event{}, fmt.Errorf("event %.255q of topic %.255q: %w", id, topic, ErrNotFound)
	}
	var found sqldb.EventRow
	err := q.GetContext(ctx, &found, s.db.SQL(`SELECT `+sqldb.EventColumns+` FROM reprise.events e WHERE e.id = $1 AND e.topic = $2`), id, topic)
	if errors.Is(err, sql.ErrNoRows) {
		return Event{}, fmt.Errorf("event %q of topic %q: %w", id, topic, ErrNotFound)
	}
	if err != nil {
		return Event{}, fmt.Errorf("read event %q: %w", id, err)
	}
	return EventOf(found)
}
