package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// PreviewOutbox counts the events that ChangeOutbox would change, by topic and state.
// It changes nothing.
func (s *Operator) PreviewOutbox(ctx context.Context, o store.Operation) ([]store.OutboxCount, error) {
	if err := ValidateOutbox(o); err != nil {
		return nil, err
	}
	return s.record.CountOutgoing(ctx, s.changes(o))
}

// ChangeOutbox records a request of kind Sending, Releasing or Dropping and carries it
// out on the events that its Outbox selects, in one transaction: all, or none and an
// error. Without a State in the selection, it takes the first states listed here:
//
//	Sending    REFUSED; with a State also SENT, DROPPED, HELD: becomes PENDING, is sent again
//	Releasing  HELD: becomes PENDING
//	Dropping   PENDING, HELD, REFUSED: becomes DROPPED
//
// An event that a relay is sending at that moment may still be sent, and is then SENT.
func (s *Operator) ChangeOutbox(ctx context.Context, o store.Operation) (store.Operation, error) {
	if err := ValidateOutbox(o); err != nil {
		return o, err
	}
	_, to, _ := outboxChange(o)
	request := o
	err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		c := s.changes(request)
		asked, err := s.put(ctx, tx, request)
		if err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, s.db.Compose(fmt.Sprintf(`
			UPDATE reprise.outbox SET state = '%s', failures = 0, error = NULL, operation_id = %s
			WHERE id IN (SELECT o.id FROM reprise.outbox o WHERE %s)`, to, c.Arg(asked.ID), c.Where())), c.Args...)
		if err != nil {
			return err
		}
		if asked.Taken, err = result.RowsAffected(); err != nil {
			return err
		}
		asked.Total, asked.Complete = store.Count{N: asked.Taken}, true
		o = asked
		if _, err := tx.ExecContext(ctx, s.db.SQL(`UPDATE reprise.operations SET total = $2, taken = $2, complete = true WHERE id = $1`), o.ID, o.Taken); err != nil {
			return err
		}
		return s.db.NotifyOutbox(ctx, tx, "")
	})
	if err != nil {
		return o, fmt.Errorf("%s what is in the outbox: %w", o.Kind, err)
	}
	return o, nil
}

// ValidateOutbox reports every field that a request to ChangeOutbox must not have.
func ValidateOutbox(o store.Operation) error {
	if _, _, err := outboxChange(o); err != nil {
		return fmt.Errorf("%.255s: %w", o.Kind, err)
	}
	return nil
}

// changes returns the conditions of the events that ChangeOutbox changes, on rows o.
func (s *Operator) changes(o store.Operation) *sqldb.Conditions {
	from, _, _ := outboxChange(o)
	c := s.record.OutboxConditions(o.Outbox)
	c.And(`o.state IN ('` + strings.Join(from, `', '`) + `')`)
	return c
}

// outboxChange returns the states from which the operation takes events, and the state
// that they get.
func outboxChange(o store.Operation) (from []string, to store.OutgoingState, err error) {
	var usual, allowed []store.OutgoingState
	switch o.Kind {
	case store.Sending:
		usual, to = []store.OutgoingState{store.OutgoingRefused}, store.OutgoingPending
		allowed = []store.OutgoingState{store.OutgoingRefused, store.OutgoingSent, store.OutgoingDropped, store.OutgoingHeld}
	case store.Releasing:
		usual, to = []store.OutgoingState{store.OutgoingHeld}, store.OutgoingPending
		allowed = usual
	case store.Dropping:
		usual, to = []store.OutgoingState{store.OutgoingPending, store.OutgoingHeld, store.OutgoingRefused}, store.OutgoingDropped
		allowed = usual
	default:
		return nil, "", fmt.Errorf("it is not done to the outbox: want %s, %s or %s", store.Sending, store.Releasing, store.Dropping)
	}
	errs := []error{o.Outbox.Validate()}
	if strings.TrimSpace(o.RequestedBy) == "" {
		errs = append(errs, store.ErrNoRequester)
	}
	if state := o.Outbox.State; state != "" {
		usual = []store.OutgoingState{state}
		if !slices.Contains(allowed, state) {
			errs = append(errs, fmt.Errorf("what is %s: want of the states %v", state, allowed))
		}
	}
	for _, state := range usual {
		from = append(from, string(state))
	}
	return from, to, errors.Join(errs...)
}
