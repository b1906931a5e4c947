// Package queue creates and ends runs: it inserts events with their runs, claims due
// runs, writes the ends of attempts, and makes the runs of dead instances due again.
// Events for a broker wait in the outbox.
//
// The statements are constants in the files *_sql.go, each one whole text. A statement
// whose name ends in Postgres or SQLite is for that database only; sqldb.DB.SQL
// translates the others. What the databases do differently is in postgres.go and
// insert.go, and in sqlite.go. All methods are safe for concurrent use.
package queue

import (
	"context"
	"database/sql"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Queue holds the runs in one schema of one database.
type Queue struct {
	db      *sqldb.DB
	record  *store.Store
	dialect sqlDialect
}

// Of returns the queue in the database of the store.
func Of(record *store.Store) *Queue {
	q := &Queue{db: record.Database(), record: record, dialect: postgres{}}
	if q.db.Kind() == dialect.SQLite {
		q.dialect = sqlite{}
	}
	return q
}

// sqlDialect is what PostgreSQL and SQLite do differently on an event's way.
type sqlDialect interface {
	// insert returns the statement, as sent, that writes the events and a run for each
	// subscription of their topics. inserted reads the statement's result. With
	// likelyNew, the statement may fail if an event is known.
	insert(db *sqldb.DB, events []store.Event, lease LeaseOnInsert, likelyNew bool) (query string, args []any)
	inserted(q *Queue, rows *sql.Rows, events []store.Event) (Inserted, error)
	// record writes the event unless it is there, and a run of the handler leased to
	// the instance. It returns sql.ErrNoRows and changes nothing when the run cannot be
	// leased, and a *takenError when another event has the id: see Queue.Record.
	record(ctx context.Context, q *Queue, e store.Event, handler, instance string, again bool) (taken, error)
	// takeUp leases an existing run to the instance for another attempt. It returns
	// sql.ErrNoRows and changes nothing when the run cannot be leased.
	takeUp(ctx context.Context, q *Queue, e store.EventID, handler, instance string, again bool) (taken, error)
	// claim leases due runs to the instance, for each Want at most its N.
	claim(ctx context.Context, q *Queue, by Claimant, wants []Want) ([]*Claimed, error)
	// end writes the outcomes whose lease still holds, and returns these leases.
	end(ctx context.Context, q *Queue, outcomes []Outcome) ([]Lease, error)
}
