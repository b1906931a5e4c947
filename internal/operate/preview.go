package operate

import (
	"context"
	"fmt"

	"github.com/reprise-bus/reprise/store"
)

// Preview is what an operation would take up.
type Preview struct {
	Total store.Count   // of all parts
	Parts []PreviewPart // at most 1,000, the largest first
	More  int64         // number of parts that are not in Parts
	Gone  int64         // runs of all parts whose event is no longer in the database
}

// PreviewPart is the runs of one handler whose last failures are alike.
type PreviewPart struct {
	Topic       string       `db:"topic"`
	Handler     string       `db:"handler"`
	Status      store.Status `db:"status"`
	Fingerprint string       `db:"fingerprint"`
	Kind        store.Kind   `db:"error_kind"`
	Error       string       `db:"error"` // of the newest run
	Runs        int64        `db:"runs"`
	Newest      int64        `db:"newest"`     // id of the newest run
	Gone        int64        `db:"gone"`       // runs whose event is no longer in the database
	Subscribed  bool         `db:"subscribed"` // whether the handler has a subscription to the topic
}

// Preview returns what a replay or a discard would take up, among the first 1,000,000
// selected runs; Total.More reports that the limit was reached. It changes nothing.
func (s *Operator) Preview(ctx context.Context, o store.Operation) (p Preview, err error) {
	if err := o.Validate(); err != nil {
		return p, err
	}
	c := s.takes(o, 0, 0)
	var rows []struct {
		PreviewPart
		All      int64 `db:"all_runs"`
		AllParts int64 `db:"all_parts"`
		AllGone  int64 `db:"all_gone"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.db.Compose(fmt.Sprintf(`
		SELECT g.*, n.status, coalesce(n.error_kind, '') AS error_kind, coalesce(n.error, '') AS error,
		       EXISTS (SELECT 1 FROM reprise.subscriptions s WHERE s.topic = g.topic AND s.handler = g.handler) AS subscribed
		FROM (
			SELECT g.*, sum(g.runs) OVER () AS all_runs, count(*) OVER () AS all_parts, sum(g.gone) OVER () AS all_gone
			FROM (
				SELECT r.topic, r.handler, coalesce(r.fingerprint, '') AS fingerprint, count(*) AS runs, max(r.id) AS newest,
				       sum(CASE WHEN EXISTS (SELECT 1 FROM reprise.events e WHERE e.id = r.event_id AND e.topic = r.topic) THEN 0 ELSE 1 END) AS gone
				FROM (SELECT * FROM reprise.handler_runs r WHERE %s ORDER BY r.id LIMIT %d) r
				GROUP BY r.topic, r.handler, coalesce(r.fingerprint, '')
			) g
			ORDER BY g.runs DESC, g.newest DESC
			LIMIT %d
		) g JOIN reprise.handler_runs n ON n.id = g.newest
		ORDER BY g.runs DESC, g.newest DESC`, c.Where(), store.TotalCount, maxParts)), c.Args...); err != nil {
		return p, fmt.Errorf("preview: %w", err)
	}
	for _, r := range rows {
		p.Parts = append(p.Parts, r.PreviewPart)
		p.Total.N, p.Gone, p.More = r.All, r.AllGone, r.AllParts-int64(len(rows))
	}
	p.Total.More = p.Total.N >= store.TotalCount
	return p, nil
}

const maxParts = 1000
