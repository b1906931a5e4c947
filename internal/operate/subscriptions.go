package operate

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/actions"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Unsubscribe removes a subscription, or returns ErrNotFound. Events that are published
// from then on get no run of the handler, unless a process registers it again. Existing
// runs stay unchanged; a waiting run waits until somebody discards it. An Action
// records who removed the subscription.
func (s *Operator) Unsubscribe(ctx context.Context, sub store.Subscription, by store.By) error {
	fail := func(err error) error {
		return fmt.Errorf("unsubscribe handler %.255q from topic %.255q: %w", sub.Handler, sub.Topic, err)
	}
	if err := by.Validate(); err != nil {
		return fail(err)
	}
	if !sqldb.Keepable(sub.Topic, sub.Handler) {
		return fail(store.ErrNotFound)
	}
	if err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		n, err := s.db.Change(ctx, tx, s.db.SQL(`DELETE FROM reprise.subscriptions WHERE topic = $1 AND handler = $2`), sub.Topic, sub.Handler)
		if err != nil {
			return err
		}
		if n == 0 {
			return store.ErrNotFound
		}
		_, err = actions.Write(ctx, s.db, tx, actions.Action{
			Kind: string(store.Removing), Of: actions.Selection{Handler: sub.Handler, Topic: sub.Topic}, Name: by.Name, Reason: by.Reason,
		})
		return err
	}); err != nil {
		return fail(err)
	}
	return nil
}
