package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
)

// Subscription makes a handler get a run for each event of a topic that is
// published from then on.
type Subscription struct {
	Topic   string
	Handler string
}

// Compare orders subscriptions by topic, then by handler.
func (sub Subscription) Compare(other Subscription) int {
	return cmp.Or(cmp.Compare(sub.Topic, other.Topic), cmp.Compare(sub.Handler, other.Handler))
}

// Validate reports a name that the database would not keep as it is.
func (sub Subscription) Validate() error {
	if err := validName("handler", sub.Handler); err != nil {
		return err
	}
	if err := validName("topic", sub.Topic); err != nil {
		return fmt.Errorf("handler %q: %w", sub.Handler, err)
	}
	return nil
}

// Execer is a pool, a connection or a transaction.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Subscribe puts subscriptions into the database, idempotently. They stay
// there until somebody removes them, served or not.
func (s *Store) Subscribe(ctx context.Context, subs ...Subscription) error {
	for _, sub := range subs {
		if err := sub.Validate(); err != nil {
			return err
		}
		if _, err := s.db.ExecContext(ctx, s.sql(`
			INSERT INTO reprise.subscriptions (topic, handler) VALUES ($1, $2)
			ON CONFLICT (topic, handler) DO UPDATE SET last_seen_at = now()`), sub.Topic, sub.Handler); err != nil {
			return fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
		}
	}
	return nil
}

// SubscribeTx does it in a transaction of the caller's, and says whether the
// subscription is new. It takes no lock on one that is there already:
// publishers must not wait for each other's transactions.
func (s *Store) SubscribeTx(ctx context.Context, tx Execer, sub Subscription) (fresh bool, err error) {
	if err := sub.Validate(); err != nil {
		return false, err
	}
	result, err := tx.ExecContext(ctx, s.sql(`
		INSERT INTO reprise.subscriptions (topic, handler) VALUES ($1, $2)
		ON CONFLICT (topic, handler) DO NOTHING`), sub.Topic, sub.Handler)
	if err != nil {
		return false, fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
	}
	n, err := result.RowsAffected()
	return n > 0, err
}
