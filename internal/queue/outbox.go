package queue

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// WriteOutbox writes events into the outbox in their order: HELD if held returns true
// for their topic, PENDING otherwise. It returns the events that were not there yet.
// The events must be valid and Unique; pass at most a few thousand events and a few MiB
// of payload. db is the store's pool or the caller's transaction.
//
// A known event stays as it is, sent or not, whatever its metadata:
// KnownOutgoingMetadata tells whether an event Repeats it. An id that its topic has in
// the outbox with another payload is ErrDuplicateID, and nothing is written.
func (q *Queue) WriteOutbox(ctx context.Context, db sqldb.Queryer, events []store.Event, held func(topic string) bool) (fresh []store.EventID, err error) {
	if len(events) == 0 {
		return nil, nil
	}
	for i := range events {
		if err := events[i].Validate(); err != nil {
			return nil, err
		}
	}
	states := make([]string, len(events))
	for i, e := range events {
		states[i] = string(store.OutgoingPending)
		if held(e.Topic) {
			states[i] = string(store.OutgoingHeld)
		}
	}
	query, args := q.outboxInsert(events, states)
	err = q.db.Query(ctx, db, query, args, func(rows *sql.Rows) error {
		fresh = make([]store.EventID, 0, len(events))
		for rows.Next() {
			if q.db.Kind() == dialect.SQLite {
				var id store.EventID
				if err := rows.Scan(&id.ID, &id.Topic); err != nil {
					return err
				}
				fresh = append(fresh, id)
				continue
			}
			var n int
			var ids, topics pq.StringArray
			if err := rows.Scan(&n, &ids, &topics); err != nil {
				return err
			}
			for i := range ids {
				fresh = append(fresh, store.EventID{Topic: topics[i], ID: ids[i]})
			}
			if n == len(events) {
				for i := range events {
					fresh = append(fresh, events[i].EventID())
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("write into the outbox: %w", insertError(err, false))
	}
	return fresh, nil
}

// outboxInsert returns the statement, which returns the ids and topics of the new
// events. On PostgreSQL it returns one row: the number of new events, and their ids and
// topics unless all events are new.
func (q *Queue) outboxInsert(events []store.Event, states []string) (string, []any) {
	if q.db.Kind() == dialect.SQLite {
		args := make([]any, 0, 7*len(events))
		for i, e := range events {
			c := sqldb.Encode(e.Payload, e.Metadata)
			args = append(args, e.ID, e.Topic, e.Key, c.TextOrNull(), c.BytesOrNull(), c.Metadata, states[i])
		}
		return sqldb.Rows(q.db.SQL(writeOutboxSQLite), len(events)), args
	}
	args := arrays(events)
	return q.db.SQL(writeOutboxPostgres), append(args, pq.StringArray(states))
}
