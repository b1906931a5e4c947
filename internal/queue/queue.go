// Package queue is how runs come to be and to an end: events are inserted with their
// runs, due runs are claimed, ends are written, and what a dead process held is due
// again. What was published over a broker waits in the outbox.
//
// What truly differs between PostgreSQL and SQLite is in postgres.go, insert.go and
// sqlite.go. All methods are safe for concurrent use.
package queue

import (
	"context"
	"database/sql"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Queue is the runs in one schema of one database.
type Queue struct {
	db      *sqldb.DB
	record  *store.Store
	dialect sqlDialect
}

// Of returns the queue of what is on record in the store.
func Of(record *store.Store) *Queue {
	q := &Queue{db: record.Database(), record: record, dialect: postgres{}}
	if q.db.Kind() == dialect.SQLite {
		q.dialect = sqlite{}
	}
	return q
}

// sqlDialect is what PostgreSQL and SQLite do differently on the way of an
// event.
type sqlDialect interface {
	// insert returns the statement that writes the events and a run for each of
	// their topics' subscriptions, and inserted reads what it returns. With
	// likelyNew it may fail if an event is known.
	insert(events []store.Event, lease LeaseOnInsert, likelyNew bool) (query string, args []any)
	inserted(q *Queue, rows *sql.Rows, events []store.Event) (Inserted, error)
	// record writes the event unless it is there, and a run of the handler
	// leased to the instance. It returns sql.ErrNoRows and changes nothing
	// when the run is not to be had, and a *takenError when the id is another
	// event's: see Queue.Record.
	record(ctx context.Context, q *Queue, e store.Event, handler, instance string, again bool) (taken, error)
	// takeUp leases a run that there is to the instance, for another attempt. It
	// returns sql.ErrNoRows and changes nothing when the run is not to be had.
	takeUp(ctx context.Context, q *Queue, e store.EventID, handler, instance string, again bool) (taken, error)
	// claim leases due runs to the instance, at most as many as wanted.
	claim(ctx context.Context, q *Queue, by Claimant, wants []Want) ([]*Claimed, error)
	// end writes outcomes whose lease still holds, and returns those leases.
	end(ctx context.Context, q *Queue, outcomes []Outcome) ([]Lease, error)
}
