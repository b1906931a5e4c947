package wire

import "github.com/reprise-bus/reprise/store"

// OutboxPlan is what a change of the outbox would change.
type OutboxPlan struct {
	Total store.Count    `json:"total"`
	Parts []MessageCount `json:"parts"`
}

// NewOutboxPlan returns the shape of what a change of the outbox would change.
func NewOutboxPlan(total int64, parts []store.OutboxCount) OutboxPlan {
	return OutboxPlan{store.Count{N: total}, listOf(parts, NewMessageCount)}
}

// BackfillPlan is what a backfill would do.
type BackfillPlan struct {
	Handler string      `json:"handler"`
	Topic   string      `json:"topic"`
	Events  store.Count `json:"events"` // that would get a run
}

// NewBackfillPlan returns the shape of the operation that replay.PreviewBackfill
// returns.
func NewBackfillPlan(o store.Operation) BackfillPlan {
	return BackfillPlan{o.Selection.Handler, o.Selection.Topic, o.Total}
}
