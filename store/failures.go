package store

import (
	"context"
	"fmt"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Miscount compares the failure groups with the runs.
type Miscount struct {
	Counted  int64 // runs of all failure groups together
	Failed   Count // FAILED runs, counted up to 1,000,000
	Counting bool  // as in Grouping: counting is under way, so that nothing can be compared yet
}

// Is reports whether the failure groups and the FAILED runs differ in number. The cause
// is a change of the tables by hand, or a partial restore. replay.Recount repairs the
// groups.
func (m Miscount) Is() bool { return !m.Counting && !m.Failed.More && m.Counted != m.Failed.N }

// Miscounted compares the failure groups with the runs, in one statement.
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
