package store

import (
	"cmp"
	"context"
	"fmt"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Subscription makes a handler get a run for each event of a topic whose publish is
// committed after the subscription.
type Subscription struct {
	Topic   string
	Handler string
}

// Compare orders subscriptions by topic, then by handler.
func (sub Subscription) Compare(other Subscription) int {
	return cmp.Or(cmp.Compare(sub.Topic, other.Topic), cmp.Compare(sub.Handler, other.Handler))
}

// Validate reports a name that the database could not keep unchanged.
func (sub Subscription) Validate() error {
	if err := sqldb.ValidName("handler", sub.Handler); err != nil {
		return err
	}
	if err := ValidTopic(sub.Topic); err != nil {
		return fmt.Errorf("handler %.255q: %w", sub.Handler, err)
	}
	return nil
}

// SubscriptionKeys returns all subscriptions, served or not.
func (s *Store) SubscriptionKeys(ctx context.Context) (map[Subscription]bool, error) {
	var rows []struct {
		Topic   string `db:"topic"`
		Handler string `db:"handler"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`SELECT topic, handler FROM reprise.subscriptions`)); err != nil {
		return nil, fmt.Errorf("list subscriptions: %w", err)
	}
	keys := make(map[Subscription]bool, len(rows))
	for _, r := range rows {
		keys[Subscription(r)] = true
	}
	return keys, nil
}
