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

// Subscribe puts subscriptions into the database through q, idempotently. They
// stay there until somebody removes them, served or not.
func (s *Store) Subscribe(ctx context.Context, q Execer, subs ...Subscription) error {
	for _, sub := range subs {
		if err := sub.Validate(); err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, s.sql(`
			INSERT INTO reprise.subscriptions (topic, handler) VALUES ($1, $2)
			ON CONFLICT (topic, handler) DO UPDATE SET last_seen_at = now()`), sub.Topic, sub.Handler); err != nil {
			return fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
		}
	}
	return nil
}
