package wire

import (
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Action is an action.
type Action struct {
	ID        int64            `json:"id"`
	Action    store.ActionKind `json:"action"`
	Operation *int64           `json:"operation,omitempty"`
	Handler   string           `json:"handler,omitempty"`
	Topic     string           `json:"topic,omitempty"`
	Before    *time.Time       `json:"before,omitempty"`
	Failed    bool             `json:"failed,omitempty"`
	Discarded bool             `json:"discarded,omitempty"`
	By        string           `json:"by"`
	Reason    string           `json:"reason"`
	Runs      int64            `json:"runs"`
	Events    int64            `json:"events"`
	Messages  int64            `json:"messages"` // of the outbox
	At        *time.Time       `json:"at"`
}

// NewAction returns the shape of an action.
func NewAction(a store.Action) Action {
	return Action{
		ID: a.ID, Action: a.Kind, Operation: numberOf(a.Operation), Handler: a.Handler, Topic: a.Topic,
		Before: timeOf(a.Before), Failed: a.Failed, Discarded: a.Discarded,
		By: a.By.Name, Reason: a.By.Reason, Runs: a.Runs, Events: a.Events, Messages: a.Outgoing, At: timeOf(a.At),
	}
}

// Actions is a page of actions.
type Actions struct {
	Actions []Action `json:"actions"`
	Next    *int64   `json:"next"` // the id before which the next page begins; null: this is the last page
}

// NewActions returns the shape of a page. next is 0 for the last page.
func NewActions(actions []store.Action, next int64) Actions {
	return Actions{listOf(actions, NewAction), numberOf(next)}
}
