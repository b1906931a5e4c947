// Package operate carries out what an operator asks for. It records operations, takes
// up their runs batch by batch, pauses, resumes, cancels and undoes them, edits events,
// changes the outbox, and deletes old events.
package operate

import (
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Operator works on the record in a store. All methods are safe for concurrent use.
type Operator struct {
	db     *sqldb.DB
	record *store.Store
}

// On returns an operator of the store.
func On(record *store.Store) *Operator {
	return &Operator{db: record.Database(), record: record}
}

// operation is an operation with its cursor.
type operation struct {
	store.Operation
	cursor cursor
}
