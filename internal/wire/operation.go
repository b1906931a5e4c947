package wire

import (
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Operation is an operation, in lists without Progress and Actions.
type Operation struct {
	ID             int64                `json:"id"`
	Kind           store.OperationKind  `json:"kind"`
	State          store.OperationState `json:"state"`
	Complete       bool                 `json:"complete"`
	By             string               `json:"by"`
	Reason         string               `json:"reason"`
	Selection      any                  `json:"selection"` // store.Filter, or store.OutboxFilter
	EvenSuccessful bool                 `json:"even_successful"`
	Rate           float64              `json:"rate"` // runs per second; 0 is all at once
	Total          store.Count          `json:"total"`
	Taken          int64                `json:"taken"`
	RequestedAt    *time.Time           `json:"requested_at"`
	Progress       *Progress            `json:"progress,omitempty"`
	Actions        []Action             `json:"actions,omitempty"` // on the operation
}

// Progress is what has become of an operation's runs.
type Progress struct {
	Over      bool        `json:"over"`
	Succeeded int64       `json:"succeeded"`
	Failed    int64       `json:"failed"`
	Discarded int64       `json:"discarded"`
	Running   int64       `json:"running"`
	Waiting   int64       `json:"waiting"`
	Elsewhere int64       `json:"elsewhere"`
	Left      int64       `json:"left"`
	Arrived   store.Count `json:"arrived"`
}

// NewOperation returns the shape of an operation in a list.
func NewOperation(o store.Operation) Operation {
	o.Selection.Since, o.Selection.Until = o.Selection.Since.UTC(), o.Selection.Until.UTC()
	o.Outbox.Since, o.Outbox.Until = o.Outbox.Since.UTC(), o.Outbox.Until.UTC()
	selection := any(o.Selection)
	if o.Kind.OnOutbox() {
		selection = o.Outbox
	}
	return Operation{
		ID: o.ID, Kind: o.Kind, State: o.State, Complete: o.Complete, By: o.RequestedBy, Reason: o.Reason, Selection: selection,
		EvenSuccessful: o.EvenSuccessful, Rate: o.Rate, Total: o.Total, Taken: o.Taken, RequestedAt: timeOf(o.RequestedAt),
	}
}

// NewProgress returns the shape of an operation with its progress and the actions on it.
func NewProgress(p store.Progress, actions []store.Action) Operation {
	shape := NewOperation(p.Operation)
	if p.Kind.HasProgress() {
		shape.Progress = &Progress{p.Over(), p.Succeeded, p.Failed, p.Discarded, p.Running, p.Waiting, p.Elsewhere, p.Left(), p.Arrived}
	}
	shape.Actions = listOf(actions, NewAction)
	return shape
}

// Operations is a page of operations.
type Operations struct {
	Operations []Operation `json:"operations"`
	Next       *int64      `json:"next"` // the id before which the next page begins; null: this is the last page
}

// NewOperations returns the shape of a page. next is 0 for the last page.
func NewOperations(operations []store.Operation, next int64) Operations {
	return Operations{listOf(operations, NewOperation), numberOf(next)}
}
