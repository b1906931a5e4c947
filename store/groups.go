package store

import (
	"context"
	"fmt"
	"time"
)

// Group is a failure group: FAILED runs of one handler whose last failures are
// alike. Filter{Status: Failed, Group: g.Fingerprint} selects them.
type Group struct {
	Fingerprint string
	Handler     string
	Kind        Kind
	Error       string    // of the newest run
	Runs        int64     // how many
	First, Last time.Time // when the first and the last of them became FAILED
	Newest      int64     // run
}

type groupRow struct {
	Fingerprint string  `db:"fingerprint"`
	Handler     string  `db:"handler"`
	Kind        Kind    `db:"error_kind"`
	Error       string  `db:"error"`
	Runs        int64   `db:"runs"`
	First       instant `db:"first"`
	Last        instant `db:"last"`
	Newest      int64   `db:"newest"`
}

// Groups returns the failure groups of the FAILED runs that the filter selects,
// the largest first, at most as many as its Limit says. It reads every run that
// has failed and is selected, and no other.
func (s *Store) Groups(ctx context.Context, f Filter) ([]Group, error) {
	if f.Status != "" && f.Status != Failed {
		return nil, fmt.Errorf("failure groups of runs of status %s: want %s, the only ones that make groups", f.Status, Failed)
	}
	f.Status = Failed
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if f.Limit == 0 {
		f.Limit = DefaultLimit
	}
	where, args := s.where(f)
	var rows []groupRow
	err := s.db.SelectContext(ctx, &rows, s.compose(fmt.Sprintf(`
		WITH grouped AS (
			SELECT coalesce(r.fingerprint, '') AS fingerprint, r.handler, r.error_kind,
			       count(*) AS runs, min(r.finished_at) AS first, max(r.finished_at) AS last, max(r.id) AS newest
			FROM reprise.handler_runs r WHERE %s
			GROUP BY 1, 2, 3
			ORDER BY runs DESC, newest DESC
			LIMIT $%d
		)
		SELECT g.*, coalesce(r.error, '') AS error
		FROM grouped g JOIN reprise.handler_runs r ON r.id = g.newest
		ORDER BY g.runs DESC, g.newest DESC`, where, len(args)+1)), append(args, f.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("list failure groups: %w", err)
	}
	groups := make([]Group, len(rows))
	for i, r := range rows {
		groups[i] = Group{
			Fingerprint: r.Fingerprint, Handler: r.Handler, Kind: r.Kind, Error: r.Error,
			Runs: r.Runs, First: r.First.Time, Last: r.Last.Time, Newest: r.Newest,
		}
	}
	return groups, nil
}
