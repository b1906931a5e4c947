package queue

// claimPostgres leases due runs and returns them with their events, ordered by id.
//
// Arrays of one length: $1 topics, $2 handlers and $3 numbers of runs wanted. $4 instance,
// $5 its claims as far as it knows, $6 the runs that it holds.
//
// The planner does not know w.n. It estimates LIMIT w.n as a tenth of all due runs, and
// above jit_above_cost the server compiles each claim: 20 ms instead of 0.7 ms for 16 of a
// million due runs. The literal LIMIT in the inner query bounds the estimate; no more than
// w.n runs are read and locked. The lateral subquery and the ARRAY keep the planner at index
// scans. The SELECT around each array parameter hides its length. Otherwise the planner
// would plan each claim again, which takes as long as the claim.
//
// The instance's row is locked, so that nobody forgets the instance before the leases are
// committed. No time is written twice: started_at, which is the same for all runs, stands
// in the first row only, and the event's published_at is read from the run, which has a
// copy.
const claimPostgres = `
		WITH due AS (
			SELECT d.id
			FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::bigint[])) AS w (topic, handler, n),
			LATERAL (
				SELECT l.id FROM (
					SELECT r.id FROM reprise.handler_runs r
					WHERE r.topic = w.topic AND r.handler = w.handler AND r.due_at <= now()
					ORDER BY r.due_at, r.id
					LIMIT 10000
					FOR UPDATE SKIP LOCKED
				) l LIMIT w.n
			) d
			WHERE EXISTS (SELECT 1 FROM reprise.instances WHERE id = $4 AND claims = $5)
		), known AS (
			UPDATE reprise.instances
			SET claims = claims + 1, lowest_run = least(lowest_run, (SELECT min(id) FROM due)), held_runs = $6::bigint[] || ARRAY(SELECT id FROM due)
			WHERE id = $4 AND claims = $5 AND EXISTS (SELECT 1 FROM due)
			RETURNING id
		), leased AS (
			UPDATE reprise.handler_runs r
			SET instance = $4, attempt = r.attempt + 1, tries = r.tries + 1, started_at = now(), due_at = NULL
			WHERE r.id = ANY (ARRAY(SELECT id FROM due)) AND EXISTS (SELECT 1 FROM known)
			RETURNING r.id, r.event_id, r.topic, r.handler, r.attempt, r.tries, r.cycle, r.published_at, r.replay_id, r.error_kind, r.error, r.fingerprint
		)
		SELECT l.id, l.event_id, l.topic, l.handler, l.attempt, l.tries, l.cycle, l.published_at,
		       CASE WHEN l.id = (SELECT min(id) FROM leased) THEN now() END,
		       coalesce(l.replay_id, 0), coalesce(l.error_kind, ''), coalesce(l.error, ''), coalesce(l.fingerprint, ''),
		       e.id IS NULL, coalesce(e.key, ''), e.payload, e.payload_bytes, e.metadata, coalesce(e.source, '')
		FROM leased l LEFT JOIN LATERAL (
			SELECT * FROM reprise.events e WHERE e.id = l.event_id AND e.topic = l.topic LIMIT 1
		) e ON true
		ORDER BY l.id`

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
