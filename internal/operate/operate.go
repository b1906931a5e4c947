// Package operate carries out what an operator asks for: it puts operations on record,
// takes up their runs batch by batch, pauses, resumes, cancels and undoes them, edits
// events, changes the outbox and deletes what is old.
package operate

import (
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Operator works on what is on record in a store. All methods are safe for concurrent
// use.
type Operator struct {
	db     *sqldb.DB
	record *store.Store
}

// On returns an operator of the record.
func On(record *store.Store) *Operator {
	return &Operator{db: record.Database(), record: record}
}

// operation is one whose runs are taken up.
type operation struct {
	store.Operation
	cursor cursor
}
