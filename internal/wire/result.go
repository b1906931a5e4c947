package wire

import (
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Published is the result of publishing by hand.
type Published struct {
	Published int64               `json:"published"`
	Operation int64               `json:"operation"`
	Outbox    store.OutgoingState `json:"outbox"` // "": in the database, with its runs
	IDs       []string            `json:"ids,omitempty"`
}

// Edited is the result of an edit.
type Edited struct {
	Operation int64  `json:"operation"`
	Run       int64  `json:"run"`   // the new one
	Event     string `json:"event"` // the new one
}

// NewEdited returns the shape of the result of replay.Edit.
func NewEdited(o store.Operation, next store.Run) Edited { return Edited{o.ID, next.ID, next.EventID} }

// Pruned is what a prune has deleted or, of a dry run, would delete.
type Pruned struct {
	Before   *time.Time `json:"before"`
	Events   int64      `json:"events"`
	Runs     int64      `json:"runs"`
	Messages int64      `json:"messages"` // of the outbox
}

// NewPruned returns the shape of what a prune has deleted that ended before a time.
func NewPruned(before time.Time, p store.Pruned) Pruned {
	return Pruned{timeOf(before), p.Events, p.Runs, p.Outgoing}
}
