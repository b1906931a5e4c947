package replay

import (
	"context"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/store"
)

// ChangeOutbox does to the messages that the filter selects in the outbox what the
// kind says, in one transaction: all or, with an error, none. Without a State in the
// filter, store.Sending takes what is REFUSED, store.Releasing what is HELD, and
// store.Dropping what is neither sent nor dropped. Sending takes SENT, DROPPED or HELD
// messages, too, if the filter's State says so.
//
// A message that a relay is sending at that moment may be sent all the same, and is
// SENT then.
func ChangeOutbox(ctx context.Context, st *store.Store, kind store.OperationKind, selection store.OutboxFilter, request Request) (store.Operation, error) {
	return operate.On(st).ChangeOutbox(ctx, request.onOutbox(kind, selection))
}

// PreviewOutbox counts what ChangeOutbox would change, by topic and state, and changes
// nothing.
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
