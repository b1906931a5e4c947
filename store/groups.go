package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// Group is a failure group: FAILED runs of one handler whose last failures are
// alike. Filter{Status: Failed, Group: g.Fingerprint} selects them.
type Group struct {
	Fingerprint string
	Handler     string
	Kind        Kind
	Error       string // of the newest run
	Runs        Count
	// When the first and the last of them became FAILED; when there are more
	// than Runs counts, the oldest run, and the last of those that are counted.
	First, Last    time.Time
	Oldest, Newest int64 // run, of those that are counted
}

// Of so many groups each is told apart, and so many runs are counted in all:
// many groups are counted less far, but each to a thousand.
const (
	maxGroups   = 1000
	groupCounts = 60_000
	groupCount  = 1000
)

// Groups returns the failure groups of the FAILED runs that the filter selects,
// the largest first, at most as many as its Limit says. Each is counted to
// MaxCount, less far when there are many; of the runs that have not failed none is read.
func (s *Store) Groups(ctx context.Context, f Filter) ([]Group, error) {
	if f.Status != "" && f.Status != Failed {
		return nil, fmt.Errorf("failure groups of runs of status %s: want %s, the only ones that make groups", f.Status, Failed)
	}
	f.Status, f.Before = Failed, 0
	if err := f.Validate(); err != nil {
		return nil, err
	}
	prints := []string{f.Group}
	if f.Group == "" {
		var err error
		if prints, err = s.fingerprints(ctx); err != nil {
			return nil, err
		}
	}
	most := min(max(groupCount, groupCounts/max(len(prints), 1)), MaxCount)
	var groups []Group
	for _, print := range prints {
		f.Group = print
		group, err := s.group(ctx, f, most)
		if err != nil {
			return nil, fmt.Errorf("list failure groups: %w", err)
		}
		if group.Runs.N > 0 {
			groups = append(groups, group)
		}
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Runs.N, a.Runs.N), cmp.Compare(b.Newest, a.Newest))
	})
	return groups[:min(len(groups), cmp.Or(f.Limit, DefaultLimit))], nil
}

// fingerprints returns those of all failures, each found by a step in the index.
func (s *Store) fingerprints(ctx context.Context) (prints []string, err error) {
	err = s.db.SelectContext(ctx, &prints, s.sql(`
		WITH RECURSIVE prints (fingerprint) AS (
			SELECT min(fingerprint) FROM reprise.handler_runs WHERE fingerprint IS NOT NULL
			UNION ALL
			SELECT (SELECT min(r.fingerprint) FROM reprise.handler_runs r WHERE r.fingerprint > p.fingerprint)
			FROM prints p WHERE p.fingerprint IS NOT NULL
		)
		SELECT fingerprint FROM prints WHERE fingerprint IS NOT NULL LIMIT $1`), maxGroups)
	if err != nil {
		return nil, fmt.Errorf("list failure groups: %w", err)
	}
	return prints, nil
}

// group returns the group that the filter names, of the runs that it selects;
// without any, it has no Runs. It looks at so many of its runs at most, the newest.
func (s *Store) group(ctx context.Context, f Filter, most int) (Group, error) {
	g := Group{Fingerprint: f.Group}
	handler, kind := f.Handler, f.Kind
	f.Handler, f.Kind = "", "" // the group's, which one look tells
	var newest []runRow
	if err := s.db.SelectContext(ctx, &newest, s.sql(`
		SELECT `+runColumns+` FROM reprise.handler_runs r
		WHERE r.fingerprint = $1 AND r.failed_at IS NOT NULL ORDER BY r.id DESC LIMIT 1`), f.Group); err != nil || len(newest) == 0 {
		return g, err
	}
	g.Handler, g.Kind, g.Error = newest[0].Handler, newest[0].ErrorKind, newest[0].Error
	if handler != "" && handler != g.Handler || kind != "" && kind != g.Kind {
		return g, nil
	}
	c := s.conditions(f, 0, 0)
	look, _ := c.look()
	columns := `r.id, r.failed_at`
	if len(c.rest) > 0 {
		columns = `r.*`
	}
	var found struct {
		Runs   int64
		First  instant
		Last   instant
		Oldest int64
		Newest int64
		Looked int64
	}
	if err := s.db.GetContext(ctx, &found, s.compose(fmt.Sprintf(`
		SELECT count(r.picked) AS runs, min(r.picked) AS first, max(r.picked) AS last,
		       coalesce(min(CASE WHEN r.picked IS NOT NULL THEN r.id END), 0) AS oldest,
		       coalesce(max(CASE WHEN r.picked IS NOT NULL THEN r.id END), 0) AS newest, count(*) AS looked
		FROM (
			SELECT r.id, CASE WHEN %s THEN r.failed_at END AS picked
			FROM (SELECT %s FROM reprise.handler_runs r WHERE %s ORDER BY r.id DESC LIMIT %d) r
		) r`, conjunction(c.rest), columns, look, most+1)), c.args...); err != nil {
		return g, err
	}
	g.Runs = Count{N: min(found.Runs, int64(most)), More: found.Looked > int64(most)}
	g.First, g.Last, g.Oldest, g.Newest = found.First.Time, found.Last.Time, found.Oldest, found.Newest
	if g.Runs.More && g.Runs.N > 0 {
		var first instant
		if err := s.db.GetContext(ctx, &first, s.sql(`
			SELECT failed_at FROM reprise.handler_runs WHERE fingerprint = $1 AND failed_at IS NOT NULL ORDER BY id LIMIT 1`), f.Group); err != nil {
			return g, err
		}
		g.First = first.Time
	}
	return g, nil
}
