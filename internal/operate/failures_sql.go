package operate

// The statements of CountFailures that add to the failure groups.
const (
	// countPastPostgres counts the FAILED runs of a range. It deletes the changes of
	// these runs that it sees; later changes count.
	//
	// $1 the run after which the range begins, $2 its last run.
	countPastPostgres = `
		WITH counts AS (
			SELECT coalesce(fingerprint, '') AS fingerprint, handler, coalesce(error_kind, '') AS kind, count(*) AS runs,
			       min(failed_at) AS first_at, max(failed_at) AS last_at, max(id) AS last_run
			FROM reprise.handler_runs
			WHERE failed_at IS NOT NULL AND id > $1 AND id <= $2
			GROUP BY 1, 2, 3
		), noted AS (
			DELETE FROM reprise.failure_changes WHERE run_id > $1 AND run_id <= $2
		)
		INSERT INTO reprise.failure_groups AS g (fingerprint, handler, kind, runs, first_at, last_at, last_run)
		SELECT fingerprint, handler, kind, runs, coalesce(first_at, now()), coalesce(last_at, now()), coalesce(last_run, 0)
		FROM counts WHERE true ORDER BY fingerprint, handler, kind
		ON CONFLICT (fingerprint, handler, kind) DO UPDATE
		SET runs = g.runs + excluded.runs, first_at = least(g.first_at, excluded.first_at),
		    last_at = greatest(g.last_at, excluded.last_at), last_run = greatest(g.last_run, excluded.last_run)`

	// countPastSQLite counts the FAILED runs of a range.
	//
	// $1 the run after which the range begins, $2 its last run.
	countPastSQLite = `
		WITH counts AS (
			SELECT coalesce(fingerprint, '') AS fingerprint, handler, coalesce(error_kind, '') AS kind, count(*) AS runs,
			       min(failed_at) AS first_at, max(failed_at) AS last_at, max(id) AS last_run
			FROM reprise.handler_runs
			WHERE failed_at IS NOT NULL AND id > $1 AND id <= $2
			GROUP BY 1, 2, 3
		)
		INSERT INTO reprise.failure_groups AS g (fingerprint, handler, kind, runs, first_at, last_at, last_run)
		SELECT fingerprint, handler, kind, runs, coalesce(first_at, now()), coalesce(last_at, now()), coalesce(last_run, 0)
		FROM counts WHERE true ORDER BY fingerprint, handler, kind
		ON CONFLICT (fingerprint, handler, kind) DO UPDATE
		SET runs = g.runs + excluded.runs, first_at = least(g.first_at, excluded.first_at),
		    last_at = greatest(g.last_at, excluded.last_at), last_run = greatest(g.last_run, excluded.last_run)`

	// addChangesPostgres adds the oldest changes to the groups and deletes them. It
	// returns their number.
	//
	// $1 how many changes at most.
	addChangesPostgres = `
		WITH taken AS (
			DELETE FROM reprise.failure_changes
			WHERE id = ANY (ARRAY(SELECT id FROM reprise.failure_changes ORDER BY id LIMIT $1))
			RETURNING fingerprint, handler, kind, run_id, change, at
		), counts AS (
			SELECT fingerprint, handler, kind, sum(change) AS runs,
			       min(at) FILTER (WHERE change > 0) AS first_at, max(at) FILTER (WHERE change > 0) AS last_at,
			       max(run_id) FILTER (WHERE change > 0) AS last_run
			FROM taken GROUP BY fingerprint, handler, kind
		), added AS (
			INSERT INTO reprise.failure_groups AS g (fingerprint, handler, kind, runs, first_at, last_at, last_run)
			SELECT fingerprint, handler, kind, runs, coalesce(first_at, now()), coalesce(last_at, now()), coalesce(last_run, 0)
			FROM counts WHERE true ORDER BY fingerprint, handler, kind
			ON CONFLICT (fingerprint, handler, kind) DO UPDATE
			SET runs = g.runs + excluded.runs, first_at = least(g.first_at, excluded.first_at),
			    last_at = greatest(g.last_at, excluded.last_at), last_run = greatest(g.last_run, excluded.last_run)
		)
		SELECT count(*) FROM taken`
)
