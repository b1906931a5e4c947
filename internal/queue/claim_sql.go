package queue

// The statements with which SQLite claims.
const (
	// anyDueSQLite returns whether a run is due.
	anyDueSQLite = `SELECT EXISTS (SELECT 1 FROM reprise.handler_runs WHERE due_at IS NOT NULL AND due_at <= now())`

	// claimSQLite leases due runs of one handler and returns them.
	//
	// $1 instance, $2 topic, $3 handler, $4 number of runs, $5 the instance's claims as
	// far as it knows.
	claimSQLite = `
		UPDATE reprise.handler_runs
		SET instance = $1, attempt = attempt + 1, tries = tries + 1, started_at = now(), due_at = NULL
		WHERE id IN (
			SELECT id FROM reprise.handler_runs
			WHERE topic = $2 AND handler = $3 AND due_at IS NOT NULL AND due_at <= now()
			ORDER BY due_at, id
			LIMIT $4
		) AND EXISTS (SELECT 1 FROM reprise.instances WHERE id = $1 AND claims = $5)
		RETURNING id AS run_id, event_id, topic, handler, attempt, tries, cycle,
		          published_at AS run_published_at, started_at, coalesce(replay_id, 0) AS replay_id,
		          coalesce(error_kind, '') AS error_kind, coalesce(error, '') AS error, coalesce(fingerprint, '') AS fingerprint`

	// countClaimSQLite notes at the instance that it has claimed, and which runs it
	// holds.
	//
	// $1 instance, $2 lowest claimed run, $3 all runs that the instance holds.
	countClaimSQLite = `
		UPDATE reprise.instances SET claims = claims + 1, lowest_run = min(lowest_run, $2), held_runs = $3 WHERE id = $1`

	// claimedEventsSQLite returns the events with these ids, on all topics.
	//
	// $1 ids.
	claimedEventsSQLite = `
		SELECT id AS event_id, topic, key, payload, payload_bytes, metadata, source, coalesce(amends, '') AS amends, published_at
		FROM reprise.events WHERE id IN (SELECT value FROM json_each($1))`
)
