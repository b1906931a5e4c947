package store

import (
	"context"
	"fmt"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Miscount compares the failure groups with the runs.
type Miscount struct {
	Counted  int64 // runs of all failure groups
	Failed   Count // runs that are FAILED, counted to a million
	Counting bool  // as in Grouping: there is nothing to compare yet
}

// Is says whether the groups do not have as many runs as have FAILED. Somebody has
// changed tables by hand, or restored a part of them: see Recount.
func (m Miscount) Is() bool { return !m.Counting && !m.Failed.More && m.Counted != m.Failed.N }

// Miscounted compares the failure groups with the runs, at one moment.
func (s *Store) Miscounted(ctx context.Context) (m Miscount, err error) {
	counted := `(SELECT coalesce(sum(runs), 0) FROM reprise.failure_groups)`
	if s.db.Kind() == dialect.Postgres {
		counted += ` + (
			SELECT coalesce(sum(change), 0) FROM reprise.failure_changes WHERE run_id <= (SELECT run_id FROM reprise.failures_counted))`
	}
	var found struct {
		Counted  int64
		Failed   int64
		Counting bool
	}
	if err := s.db.GetContext(ctx, &found, s.db.SQL(fmt.Sprintf(`
		SELECT CAST(%s AS bigint) AS counted, (SELECT run_id < up_to FROM reprise.failures_counted) AS counting,
		       (SELECT count(*) FROM (SELECT 1 FROM reprise.handler_runs WHERE failed_at IS NOT NULL ORDER BY id LIMIT %d) r) AS failed`,
		counted, TotalCount+1))); err != nil {
		return m, fmt.Errorf("compare the failure groups with the runs: %w", err)
	}
	return Miscount{found.Counted, Count{N: min(found.Failed, TotalCount), More: found.Failed > TotalCount}, found.Counting}, nil
}
