package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Group is a failure group: FAILED runs of one handler whose last failures are alike.
// Filter{Status: Failed, Group: g.Fingerprint} selects them. A Group without a
// Fingerprint holds the runs of one handler and kind that have no fingerprint.
type Group struct {
	Fingerprint string
	Handler     string
	Kind        Kind
	Error       string // of the run Newest
	Runs        Count
	// The times at which a run of the group first and last became FAILED, since the
	// group last became non-empty.
	First, Last time.Time
	// The FAILED runs with the lowest and the highest id. When the 1,000 runs of the
	// group that are looked at from one end are no longer FAILED, Oldest is 0, and
	// Newest is a run that was FAILED once.
	Oldest, Newest int64
}

// Grouping is the result of Store.Grouping.
type Grouping struct {
	Groups []Group // the largest first
	More   bool    // there are more groups
	// How many FAILED runs were looked at, if not all: the newest that an index offers.
	// There may be more. 0 means that all were looked at.
	Among int64
	// FAILED runs from before an upgrade or a replay.Recount are still being counted.
	// Groups may be missing or incomplete.
	Counting bool
}

// groupLooks is how many runs of a group are looked at, from each end, to find its
// newest and its oldest FAILED run.
const groupLooks = 1000

// Groups returns the Groups of Grouping. Runs.More of a group reports whether the group
// may have more runs than were counted.
func (s *Store) Groups(ctx context.Context, f Filter) ([]Group, error) {
	g, err := s.Grouping(ctx, f)
	return g.Groups, err
}

// Grouping returns the failure groups of the FAILED runs that the filter selects, the
// largest first, at most as many as its Limit (0 is DefaultLimit). A selection by
// Handler, Kind and Group only is counted exactly, whatever the number of runs and
// groups. Any other selection is counted among a bounded number of the newest FAILED
// runs.
func (s *Store) Grouping(ctx context.Context, f Filter) (Grouping, error) {
	if f.Status != "" && f.Status != Failed {
		return Grouping{}, fmt.Errorf("failure groups of runs of status %.255s: want %s, the only ones that make groups", f.Status, Failed)
	}
	f.Status, f.Before = Failed, 0
	if err := f.Validate(); err != nil {
		return Grouping{}, err
	}
	f.Limit = cmp.Or(f.Limit, DefaultLimit)
	rest := f
	rest.Status, rest.Handler, rest.Kind, rest.Group = "", "", "", ""
	find := s.foundGroups
	if rest.Empty() {
		find = s.knownGroups
	}
	g, err := find(ctx, f)
	if err != nil {
		return Grouping{}, fmt.Errorf("list failure groups: %w", err)
	}
	return g, nil
}

type groupRow struct {
	Fingerprint string     `db:"fingerprint"`
	Handler     string     `db:"handler"`
	Kind        Kind       `db:"kind"`
	Runs        int64      `db:"runs"`
	First       sqldb.Time `db:"first_at"`
	Last        sqldb.Time `db:"last_at"`
	Oldest      int64      `db:"oldest"`
	Newest      int64      `db:"newest"`
	Error       string     `db:"error"`
	Looked      int64      `db:"looked"`
	Counting    bool       `db:"counting"`
}

func grouping(rows []groupRow, f Filter) (g Grouping) {
	g.More = len(rows) > f.Limit
	for _, r := range rows[:min(len(rows), f.Limit)] {
		g.Groups = append(g.Groups, Group{
			Fingerprint: r.Fingerprint, Handler: r.Handler, Kind: r.Kind, Error: r.Error, Runs: Count{N: r.Runs, More: r.Counting},
			First: r.First.Time, Last: r.Last.Time, Oldest: r.Oldest, Newest: r.Newest,
		})
		g.Counting = r.Counting
	}
	return g
}

// knownGroups reads the table failure_groups and the changes that are not yet added to
// it.
func (s *Store) knownGroups(ctx context.Context, f Filter) (Grouping, error) {
	c := &sqldb.Conditions{}
	for _, known := range []struct{ column, value string }{{"handler", f.Handler}, {"kind", string(f.Kind)}, {"fingerprint", f.Group}} {
		if known.value != "" {
			c.And(known.column+` = %s`, known.value)
		}
	}
	selected := sqldb.Conjunction(c.Rest)
	n := c.Arg(f.Limit + 1)
	const columns = `fingerprint, handler, kind, runs, first_at, last_at, last_run`
	largest := `SELECT ` + columns + ` FROM reprise.failure_groups WHERE ` + selected + ` ORDER BY runs DESC, last_run DESC LIMIT `
	counts := largest + n
	if s.db.Kind() == dialect.Postgres {
		// Unchanged groups with a place among the largest of the result come before
		// this place in the table, too.
		counts = `
		WITH changed AS (
			SELECT fingerprint, handler, kind, sum(change) AS runs, min(at) FILTER (WHERE change > 0) AS first_at,
			       max(at) FILTER (WHERE change > 0) AS last_at, max(run_id) FILTER (WHERE change > 0) AS last_run
			FROM reprise.failure_changes
			WHERE run_id <= (SELECT run_id FROM reprise.failures_counted) AND ` + selected + `
			GROUP BY fingerprint, handler, kind
		)
		SELECT fingerprint, handler, kind, sum(runs)::bigint AS runs, min(first_at) AS first_at, max(last_at) AS last_at, max(last_run) AS last_run
		FROM (
			(` + largest + n + ` + (SELECT count(*) FROM changed))
			UNION
			SELECT g.* FROM changed c, LATERAL ( -- LIMIT keeps the planner at the index
				SELECT * FROM reprise.failure_groups g
				WHERE g.fingerprint = c.fingerprint AND g.handler = c.handler AND g.kind = c.kind LIMIT 1
			) g
			UNION ALL
			SELECT * FROM changed
		) g
		GROUP BY fingerprint, handler, kind
		HAVING sum(runs) > 0
		ORDER BY runs DESC, last_run DESC LIMIT ` + n
	}
	failed := func(order string) string {
		return fmt.Sprintf(`(
			SELECT r.id FROM (
				SELECT id, failed_at FROM reprise.handler_runs
				WHERE fingerprint = g.fingerprint ORDER BY id %[1]s LIMIT %[2]d
			) r WHERE %[3]s ORDER BY r.id %[1]s LIMIT 1)`, order, groupLooks, s.likely(`r.failed_at`))
	}
	var rows []groupRow
	if err := s.db.SelectContext(ctx, &rows, s.db.Compose(`
		SELECT g.fingerprint, g.handler, g.kind, g.runs, g.first_at, g.last_at, g.oldest, g.newest, coalesce(r.error, '') AS error,
		       (SELECT run_id < up_to FROM reprise.failures_counted) AS counting
		FROM (
			SELECT g.*, coalesce(`+failed("DESC")+`, g.last_run) AS newest, coalesce(`+failed("ASC")+`, 0) AS oldest
			FROM (`+counts+`) g
			LIMIT `+n+` -- no more are there; it keeps the lookups from being made twice
		) g LEFT JOIN reprise.handler_runs r ON r.id = g.newest
		ORDER BY g.runs DESC, g.last_run DESC`), c.Args...); err != nil {
		return Grouping{}, err
	}
	g := grouping(rows, f)
	if len(rows) == 0 {
		err := s.db.GetContext(ctx, &g.Counting, s.db.SQL(`SELECT run_id < up_to FROM reprise.failures_counted`))
		return g, err
	}
	return g, nil
}

// foundGroups counts the runs that the filter selects among the newest failures that
// an index offers.
func (s *Store) foundGroups(ctx context.Context, f Filter) (Grouping, error) {
	c := s.Conditions(f, 0, 0)
	offered, _ := c.Look()
	most := lookFor(f, pageLook)
	var rows []groupRow
	if err := s.db.SelectContext(ctx, &rows, s.db.Compose(fmt.Sprintf(`
		SELECT g.*, coalesce(r.error, '') AS error
		FROM (
			SELECT g.fingerprint, g.handler, g.kind, g.runs, g.first_at, g.last_at, g.oldest, g.newest, sum(g.here) OVER () AS looked
			FROM (
				SELECT fingerprint, handler, kind, count(picked) AS runs, count(*) AS here,
				       min(CASE WHEN picked IS NOT NULL THEN failed_at END) AS first_at,
				       max(CASE WHEN picked IS NOT NULL THEN failed_at END) AS last_at,
				       coalesce(min(picked), 0) AS oldest, coalesce(max(picked), 0) AS newest
				FROM (
					SELECT coalesce(r.fingerprint, '') AS fingerprint, r.handler, coalesce(r.error_kind, '') AS kind, r.failed_at,
					       CASE WHEN %s THEN r.id END AS picked
					FROM reprise.handler_runs r WHERE %s ORDER BY r.id DESC LIMIT %d
				) r
				GROUP BY fingerprint, handler, kind
			) g
			ORDER BY g.runs DESC, g.newest DESC LIMIT %s
		) g LEFT JOIN reprise.handler_runs r ON r.id = g.newest
		ORDER BY g.runs DESC, g.newest DESC`, sqldb.Conjunction(c.Rest), offered, most, c.Arg(f.Limit+1))), c.Args...); err != nil {
		return Grouping{}, err
	}
	more := len(rows) > 0 && rows[0].Looked >= int64(most)
	rows = slices.DeleteFunc(rows, func(r groupRow) bool { return r.Runs == 0 })
	g := grouping(rows, f)
	if more {
		g.Among = int64(most)
		for i := range g.Groups {
			g.Groups[i].Runs.More = true
		}
	}
	return g, nil
}
