package replay

import (
	"context"
	"fmt"
	"slices"

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

// OutboxPlan is what ChangeOutbox would change at this moment.
type OutboxPlan struct {
	Total int64               // messages of all parts
	Parts []store.OutboxCount // by topic and state

	// NotSelected names messages of the selection's IDs that are not in the plan, and
	// says why, as far as their state shows it: "message 17 is PENDING".
	NotSelected []string
}

// PreviewOutbox returns the plan of ChangeOutbox, and changes nothing.
func PreviewOutbox(ctx context.Context, st *store.Store, kind store.OperationKind, selection store.OutboxFilter) (p OutboxPlan, err error) {
	if p.Parts, err = operate.On(st).PreviewOutbox(ctx, Request{}.onOutbox(kind, selection)); err != nil {
		return p, err
	}
	for _, part := range p.Parts {
		p.Total += part.N
	}
	if int64(len(selection.IDs)) <= p.Total {
		return p, nil
	}
	messages, err := st.Outbox(ctx, store.OutboxFilter{IDs: selection.IDs, Limit: store.MaxLimit})
	if err != nil {
		return p, err
	}
	for _, id := range selection.IDs {
		i := slices.IndexFunc(messages, func(o store.Outgoing) bool { return o.ID == id })
		switch {
		case i < 0:
			p.NotSelected = append(p.NotSelected, fmt.Sprintf("message %d is not there", id))
		case !slices.ContainsFunc(p.Parts, func(c store.OutboxCount) bool { return c.State == messages[i].State }):
			p.NotSelected = append(p.NotSelected, fmt.Sprintf("message %d is %s", id, messages[i].State))
		}
	}
	return p, nil
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
