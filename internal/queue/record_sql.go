package queue

// The statements of Record and RecordAgain.
const (
	// recordNewPostgres leases a new run of an event that is new, or known with the same
	// payload and the same metadata, and returns the run. It returns nothing if the run
	// exists, or if another event has the id.
	//
	// $1 id, $2 topic, $3 key, $4 whether the payload is JSON, $5 payload as text, $6
	// payload as bytes, $7 metadata, $8 source, $9 handler, $10 instance, $11 whether
	// the metadata may differ.
	recordNewPostgres = `
		WITH was AS (
			SELECT published_at, payload::text IS NOT DISTINCT FROM CASE WHEN $4 THEN $5::text END
			       AND payload_bytes IS NOT DISTINCT FROM CASE WHEN NOT $4 THEN $6::bytea END
			       AND ($11::boolean OR metadata::text = $7::text) AS same
			FROM reprise.events WHERE id = $1 AND topic = $2
		), event AS (
			INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata, source)
			VALUES ($1, $2, $3, CASE WHEN $4 THEN $5::text::json END, CASE WHEN NOT $4 THEN $6::bytea END, $7::text::json, $8)
			ON CONFLICT (id, topic) DO NOTHING
			RETURNING published_at, true AS same
		), leased AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, instance, attempt, tries, started_at, published_at)
			SELECT $1::text, $2::text, $9::text, $3::text, $10::text, 1, 1, now(), e.published_at
			FROM (SELECT * FROM event UNION ALL SELECT * FROM was) e WHERE e.same
			ON CONFLICT (event_id, topic, handler) DO NOTHING
			RETURNING id, attempt, started_at, published_at
		), lowered AS (
			UPDATE reprise.instances SET lowest_run = least(lowest_run, (SELECT id FROM leased)), held_runs = held_runs || (SELECT id FROM leased)
			WHERE id = $10 AND EXISTS (SELECT 1 FROM leased)
		)
		SELECT id, attempt, started_at, published_at FROM leased`

	// takeUpPostgres leases an existing run for another attempt, keeps a lost lease as an
	// abandoned attempt, and returns the run. The lock comes first, so that the statement
	// sees concurrent deliveries and ends.
	//
	// $1 event, $2 topic, $3 handler, $4 instance, $5 whether a run that succeeded is
	// taken up, too.
	takeUpPostgres = `
		WITH was AS (
			SELECT id, status, attempt, cycle, instance, started_at, due_at FROM reprise.handler_runs
			WHERE event_id = $1 AND topic = $2 AND handler = $3
			FOR UPDATE
		), abandoned AS (
			INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, instance, started_at)
			SELECT id, attempt, cycle, 'abandoned', 'the message was delivered again before the handler had ended', instance, started_at
			FROM was WHERE status = 'PENDING' AND due_at IS NULL
		), leased AS (
			UPDATE reprise.handler_runs r
			SET status = 'PENDING', attempt = r.attempt + 1, tries = 1, instance = $4, started_at = now(), due_at = NULL,
			    finished_at = NULL, failed_at = NULL
			FROM was WHERE r.id = was.id AND (was.status IN ('PENDING', 'FAILED') OR ($5 AND was.status = 'SUCCESS'))
			RETURNING r.id, r.attempt, r.started_at, r.published_at, r.replay_id, r.error_kind, r.error, r.fingerprint
		), lowered AS (
			UPDATE reprise.instances SET lowest_run = least(lowest_run, (SELECT id FROM leased)), held_runs = held_runs || (SELECT id FROM leased)
			WHERE id = $4 AND EXISTS (SELECT 1 FROM leased)
		)
		SELECT id, attempt, started_at, published_at, coalesce(replay_id, 0) AS replay_id,
		       coalesce(error_kind, '') AS error_kind, coalesce(error, '') AS error, coalesce(fingerprint, '') AS fingerprint FROM leased`

	// recordEventSQLite writes an event unless it is known.
	//
	// $1 id, $2 topic, $3 key, $4 payload as text, $5 payload as bytes, $6 metadata, $7
	// source.
	recordEventSQLite = `
		INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata, source)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (id, topic) DO NOTHING`

	// knownEventSQLite returns an event.
	//
	// $1 id, $2 topic.
	knownEventSQLite = `
		SELECT id AS event_id, topic, key, payload, payload_bytes, metadata, source, coalesce(amends, '') AS amends, published_at
		FROM reprise.events WHERE id = $1 AND topic = $2`

	// abandonSQLite keeps the lost lease of an event's run as an abandoned attempt.
	//
	// $1 event, $2 topic, $3 handler.
	abandonSQLite = `
		INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, instance, started_at)
		SELECT id, attempt, cycle, 'abandoned', 'the message was delivered again before the handler had ended', instance, started_at
		FROM reprise.handler_runs
		WHERE event_id = $1 AND topic = $2 AND handler = $3 AND status = 'PENDING' AND due_at IS NULL`

	// takeUpSQLite leases an event's run, new or for another attempt, and returns the
	// run.
	//
	// $1 event, $2 topic, $3 handler, $4 instance, $5 whether a run that succeeded is
	// taken up, too.
	takeUpSQLite = `
		INSERT INTO reprise.handler_runs AS r (event_id, topic, handler, key, instance, attempt, tries, started_at, published_at)
		SELECT e.id, e.topic, $3, e.key, $4, 1, 1, now(), e.published_at FROM reprise.events e WHERE e.id = $1 AND e.topic = $2
		ON CONFLICT (event_id, topic, handler) DO UPDATE
		SET status = 'PENDING', attempt = r.attempt + 1, tries = 1, instance = excluded.instance,
		    started_at = now(), due_at = NULL, finished_at = NULL, failed_at = NULL
		WHERE r.status IN ('PENDING', 'FAILED') OR ($5 AND r.status = 'SUCCESS')
		RETURNING id, attempt, started_at, published_at, coalesce(replay_id, 0) AS replay_id,
		    coalesce(error_kind, '') AS error_kind, coalesce(error, '') AS error, coalesce(fingerprint, '') AS fingerprint`

	// holdSQLite notes at the instance that it holds another run.
	//
	// $1 instance, $2 run.
	holdSQLite = `
		UPDATE reprise.instances SET lowest_run = min(lowest_run, $2), held_runs = json_insert(held_runs, '$[#]', $2) WHERE id = $1`
)
