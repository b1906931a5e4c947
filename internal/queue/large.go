package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// InsertLarge writes more events than one statement takes, in the caller's transaction,
// and a due run for each subscription of their topics. split divides the events among
// statements. The events need not be Unique. Otherwise it is Insert.
//
// On PostgreSQL, all events are inserted before the first run: every transaction
// inserts events in the order of EventID.Compare, and runs in the order of publishing.
func (q *Queue) InsertLarge(ctx context.Context, tx sqldb.Queryer, events []store.Event, split func([]store.Event) [][]store.Event) (in Inserted, err error) {
	if len(events) == 0 {
		return in, nil
	}
	for i := range events {
		if err := events[i].Validate(); err != nil {
			return in, err
		}
	}
	if events, err = Together(events); err != nil {
		return in, err
	}
	insert := events
	query := func(events []store.Event) (string, []any) {
		return q.dialect.insert(q.db, events, LeaseOnInsert{}, false)
	}
	if q.db.Kind() == dialect.Postgres {
		insert = slices.Clone(events)
		slices.SortFunc(insert, func(a, b store.Event) int { return a.EventID().Compare(b.EventID()) })
		query = func(events []store.Event) (string, []any) { return q.db.SQL(insertEventsPostgres), arrays(events) }
	}
	fresh := make(map[store.EventID]bool, len(events))
	for _, chunk := range split(insert) {
		text, args := query(chunk)
		if err := q.insertChunk(ctx, tx, text, args, fresh); err != nil {
			return Inserted{}, insertError(err, false)
		}
	}
	var left []store.Event
	for i := range events {
		id := events[i].EventID()
		heard, isFresh := fresh[id]
		if !isFresh {
			continue
		}
		in.IDs = append(in.IDs, id)
		left = append(left, events[i])
		if !heard {
			in.notHeard(id.Topic)
		}
	}
	if q.db.Kind() == dialect.SQLite {
		in.Due = len(in.IDs)
		return in, nil
	}
	for _, chunk := range split(left) {
		n, err := q.insertRuns(ctx, tx, chunk)
		if err != nil {
			return Inserted{}, insertError(err, false)
		}
		in.Due += n
	}
	in.unheard()
	return in, nil
}

func (q *Queue) insertChunk(ctx context.Context, tx sqldb.Queryer, query string, args []any, fresh map[store.EventID]bool) (err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var id store.EventID
		var heard bool
		if err := rows.Scan(&id.ID, &id.Topic, &heard); err != nil {
			return err
		}
		fresh[id] = heard
	}
	return rows.Err()
}

// insertRuns creates the runs of new events, in the order of the events, and returns
// their number.
func (q *Queue) insertRuns(ctx context.Context, tx sqldb.Queryer, events []store.Event) (n int, err error) {
	ids, topics, keys := make(pq.StringArray, len(events)), make(pq.StringArray, len(events)), make(pq.StringArray, len(events))
	for i := range events {
		ids[i], topics[i], keys[i] = events[i].ID, events[i].Topic, events[i].Key
	}
	if err := q.db.QueryRow(ctx, tx, q.db.SQL(insertRunsPostgres), []any{ids, topics, keys}, &n); err != nil {
		return 0, fmt.Errorf("create the runs of %d events: %w", len(events), err)
	}
	return n, nil
}
