package replay

import (
	"context"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/store"
)

// ChangeOutbox sends again, releases or drops the messages that the filter selects in
// the outbox, in one transaction: all, or none and an error. Without a State in the
// filter, store.Sending takes REFUSED messages, store.Releasing takes HELD messages,
// and store.Dropping takes messages that are neither sent nor dropped. store.Sending
// also takes SENT, DROPPED or HELD messages if the filter's State names them.
//
// A message that a relay is sending at that moment may still be sent, and is then SENT.
func ChangeOutbox(ctx context.Context, st *store.Store, kind store.OperationKind, selection store.OutboxFilter, request Request) (store.Operation, error) {
	return operate.On(st).ChangeOutbox(ctx, request.onOutbox(kind, selection))
}

// PreviewOutbox counts the messages that ChangeOutbox would change, by topic and state.
// It changes nothing.
func PreviewOutbox(ctx context.Context, st *store.Store, kind store.OperationKind, selection store.OutboxFilter) ([]store.OutboxCount, error) {
	return operate.On(st).PreviewOutbox(ctx, Request{}.onOutbox(kind, selection))
}

// ValidateOutbox reports every field of the filter that ChangeOutbox would refuse.
func ValidateOutbox(kind store.OperationKind, selection store.OutboxFilter) error {
	return operate.ValidateOutbox(Request{}.onOutbox(kind, selection))
}

func (r Request) onOutbox(kind store.OperationKind, selection store.OutboxFilter) store.Operation {
	selection.Before, selection.Limit = 0, 0 // a selection has no pages
	by := r.by()
	return store.Operation{Kind: kind, RequestedBy: by.Name, Reason: by.Reason, Outbox: selection}
}
