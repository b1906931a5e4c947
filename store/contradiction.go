package store

import (
	"context"
	"fmt"
)

// contradictory is true for no run r that only Reprise has changed.
const contradictory = `
	(r.status = 'PENDING') <> (r.finished_at IS NULL)
	OR r.due_at IS NOT NULL AND (r.status <> 'PENDING' OR r.instance IS NOT NULL)
	OR r.status = 'PENDING' AND r.due_at IS NULL AND r.instance IS NULL
	OR r.status = 'FAILED' AND r.error_kind IS NULL
	OR (r.status = 'FAILED') <> (r.failed_at IS NOT NULL)
	OR (r.status = 'DISCARDED') <> (r.discarded_at IS NOT NULL)`

// MaxContradictory is the highest number of runs that Contradictory returns.
const MaxContradictory = 10

// Contradictory returns the ids of runs whose columns contradict each other, at most
// MaxContradictory. It looks at the newest runs; among is their number. The cause is an
// incomplete change by hand. Such a run may be neither handled nor listed.
func (s *Store) Contradictory(ctx context.Context, among int) (ids []int64, err error) {
	if err := s.db.SelectContext(ctx, &ids, s.db.SQL(`
		SELECT r.id FROM (SELECT * FROM reprise.handler_runs ORDER BY id DESC LIMIT $1) r
		WHERE `+contradictory+` ORDER BY r.id LIMIT $2`), among, MaxContradictory); err != nil {
		return nil, fmt.Errorf("look for contradictory runs: %w", err)
	}
	return ids, nil
}
