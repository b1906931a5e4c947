package store

import (
	"context"
	"fmt"
)

// Preview is what an operation would take up.
type Preview struct {
	Total Count
	Parts []PreviewPart // the largest first, a thousand at most
}

// PreviewPart is the runs of a handler whose last failures are alike.
type PreviewPart struct {
	Topic       string `db:"topic"`
	Handler     string `db:"handler"`
	Status      Status `db:"status"`
	Fingerprint string `db:"fingerprint"`
	Kind        Kind   `db:"error_kind"`
	Error       string `db:"error"` // of the newest run
	Runs        int64  `db:"runs"`
	Newest      int64  `db:"newest"`     // run
	Gone        int64  `db:"gone"`       // runs whose event is no longer in the database
	Subscribed  bool   `db:"subscribed"` // the handler has a subscription to the topic
}

// Preview returns what a replay or a discard would take up, of a million runs at
// most, and changes nothing.
func (s *Store) Preview(ctx context.Context, o Operation) (p Preview, err error) {
	if err := o.Validate(); err != nil {
		return p, err
	}
	c := s.takes(o, 0, 0)
	if err := s.db.SelectContext(ctx, &p.Parts, s.compose(fmt.Sprintf(`
		SELECT g.*, n.status, coalesce(n.error_kind, '') AS error_kind, coalesce(n.error, '') AS error,
		       EXISTS (SELECT 1 FROM reprise.subscriptions s WHERE s.topic = g.topic AND s.handler = g.handler) AS subscribed
		FROM (
			SELECT r.topic, r.handler, coalesce(r.fingerprint, '') AS fingerprint, count(*) AS runs, max(r.id) AS newest,
			       sum(CASE WHEN EXISTS (SELECT 1 FROM reprise.events e WHERE e.id = r.event_id AND e.topic = r.topic) THEN 0 ELSE 1 END) AS gone
			FROM (SELECT * FROM reprise.handler_runs r WHERE %s ORDER BY r.id LIMIT %d) r
			GROUP BY r.topic, r.handler, coalesce(r.fingerprint, '')
			ORDER BY runs DESC, newest DESC
			LIMIT 1000
		) g JOIN reprise.handler_runs n ON n.id = g.newest
		ORDER BY g.runs DESC, g.newest DESC`, c.where(), totalCount)), c.args...); err != nil {
		return p, fmt.Errorf("preview: %w", err)
	}
	for _, part := range p.Parts {
		p.Total.N += part.Runs
	}
	p.Total.More = p.Total.N >= totalCount || len(p.Parts) == 1000
	return p, nil
}
