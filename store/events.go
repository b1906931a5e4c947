package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// EventMark is the position of an event in the order of publishing.
type EventMark struct {
	At    time.Time
	ID    string
	Topic string // "" is before every topic that has an event with the id at that time
}

// EventFilter selects events: every field that is set must match. The zero filter
// selects every event.
type EventFilter struct {
	Topic string    // "" is any
	Key   string    // "" is any
	Since time.Time // published at or after this time; zero is open
	Until time.Time // published before this time; zero is open

	Metadata bool // also read the metadata

	// The page. It holds at most Limit events before the mark that came with the
	// previous page; nil starts at the newest event. A Limit of 0 is DefaultLimit; the
	// maximum is MaxLimit.
	Before *EventMark
	Limit  int
}

// Validate reports a mark that no page of events can have returned.
func (m *EventMark) Validate() error {
	if m != nil && !sqldb.Keepable(m.ID, m.Topic) {
		return fmt.Errorf("the mark of event %.255q of topic %.255q: want one that was returned with the page before", m.ID, m.Topic)
	}
	return nil
}

// Validate reports every field that no event can match.
func (f EventFilter) Validate() error {
	return Filter{Topic: f.Topic, Key: f.Key, Since: f.Since, Until: f.Until, Limit: f.Limit}.Validate()
}

// Events returns a page of the events that the filter selects, newest first, and the
// mark of the next page; nil on the last page. Like Page, it looks at a bounded number
// of events. It reads no payload.
func (s *Store) Events(ctx context.Context, f EventFilter) (events []EventHead, next *EventMark, err error) {
	if err := f.Validate(); err != nil {
		return nil, nil, err
	}
	if f.Limit == 0 {
		f.Limit = DefaultLimit
	}
	if err := f.Before.Validate(); err != nil {
		return nil, nil, fmt.Errorf("list events: %w", err)
	}
	c := &sqldb.Conditions{}
	if f.Before != nil {
		c.Index(`(e.published_at, e.id, e.topic) < (%s, %s, %s)`, s.db.Time(f.Before.At), f.Before.ID, f.Before.Topic)
	}
	if !f.Since.IsZero() {
		c.Index(`e.published_at >= %s`, s.db.Time(f.Since))
	}
	if !f.Until.IsZero() {
		c.Index(`e.published_at < %s`, s.db.Time(f.Until))
	}
	if f.Topic != "" {
		c.And(`e.topic = %s`, f.Topic)
	}
	if f.Key != "" {
		c.And(`e.key = %s`, f.Key)
	}
	look, args := c.Look()
	newest := `ORDER BY e.published_at DESC, e.id DESC, e.topic DESC`
	var rows []headRow
	if err := s.db.SelectContext(ctx, &rows, s.db.Compose(fmt.Sprintf(`
		SELECT %[1]s FROM (
			SELECT e.id, e.topic FROM (
				SELECT e.id, e.topic, e.key, e.published_at FROM reprise.events e WHERE %[2]s %[3]s LIMIT %[4]d
			) e WHERE %[5]s %[3]s LIMIT %[6]s
		) found JOIN reprise.events e ON e.id = found.id AND e.topic = found.topic %[3]s`, s.headColumns(f.Metadata), look, newest, pageLook, sqldb.Conjunction(c.Rest), c.Arg(f.Limit))), c.Args...); err != nil {
		return nil, nil, fmt.Errorf("list events: %w", err)
	}
	if events, err = heads(rows); err != nil {
		return nil, nil, err
	}
	if len(rows) == f.Limit {
		last := events[len(events)-1]
		return events, &EventMark{last.PublishedAt, last.ID, last.Topic}, nil
	}
	var mark struct {
		At    sqldb.Time `db:"published_at"`
		ID    string     `db:"id"`
		Topic string     `db:"topic"`
	}
	err = s.db.GetContext(ctx, &mark, s.db.Compose(fmt.Sprintf(
		`SELECT e.published_at, e.id, e.topic FROM reprise.events e WHERE %s %s LIMIT 1 OFFSET %d`, look, newest, pageLook-1)), args...)
	if errors.Is(err, sql.ErrNoRows) {
		return events, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list events: %w", err)
	}
	return events, &EventMark{mark.At.Time, mark.ID, mark.Topic}, nil
}

// EventRuns returns the runs of an event, oldest first: one for each handler.
func (s *Store) EventRuns(ctx context.Context, topic, id string) (runs []Run, err error) {
	if !sqldb.Keepable(topic, id) {
		return nil, nil
	}
	var rows []runRow
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`
		SELECT `+runColumns+` FROM reprise.handler_runs r WHERE r.event_id = $1 AND r.topic = $2 ORDER BY r.id`), id, topic); err != nil {
		return nil, fmt.Errorf("read the runs of event %q: %w", id, err)
	}
	for _, r := range rows {
		runs = append(runs, r.run())
	}
	return runs, nil
}
