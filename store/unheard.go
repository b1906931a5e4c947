package store

import (
	"context"
	"fmt"
)

// Unheard is a topic that has events and no subscription.
type Unheard struct {
	Topic  string `db:"topic"`
	Events int64  `db:"events"` // of the events that were looked at
}

// UnheardAmong is how many of the newest events Unheard looks at.
const UnheardAmong = 10_000

// Unheard returns the topics without a subscription that have events among the newest
// UnheardAmong. No handler gets these events. It returns at most 100 topics, the most
// frequent first.
func (s *Store) Unheard(ctx context.Context) (topics []Unheard, err error) {
	if err := s.db.SelectContext(ctx, &topics, s.db.SQL(fmt.Sprintf(`
		SELECT topic, events FROM (
			SELECT e.topic, count(*) AS events FROM (
				SELECT topic FROM reprise.events ORDER BY published_at DESC LIMIT %d
			) e GROUP BY e.topic
		) t
		WHERE NOT EXISTS (SELECT 1 FROM reprise.subscriptions s WHERE s.topic = t.topic)
		ORDER BY events DESC, topic LIMIT 100`, UnheardAmong))); err != nil {
		return nil, fmt.Errorf("look for topics without a subscription: %w", err)
	}
	return topics, nil
}
