package operate

// The statements with which a backfill takes up events.
const (
	// backfillPostgres creates the runs of the next events, due at the operation's rate:
	// see replayTakenPostgres. OFFSET keeps PostgreSQL from turning NOT EXISTS into a
	// join, for which it may read all runs.
	//
	// $1 handler, $2 seconds between two runs, $3 operation, $4 topic, $5 time and $6 id
	// of the event after which the batch begins, $7 time and $8 id of its last event, $9
	// the time before which events are taken up.
	backfillPostgres = `
		INSERT INTO reprise.handler_runs (event_id, topic, handler, key, published_at, replay_id, due_at)
		SELECT e.id, e.topic, $1, e.key, e.published_at, CAST($3 AS bigint),
		       greatest((SELECT o.next_due FROM reprise.operations o WHERE o.id = $3), now()) + ((row_number() OVER (ORDER BY e.published_at, e.id) - 1) * CAST($2 AS float8)) * interval '1 second'
		FROM reprise.events e
		WHERE e.topic = $4
		AND (e.published_at, e.id) > ($5, $6) AND (e.published_at, e.id) <= ($7, $8) AND e.published_at < $9
		AND NOT EXISTS (
			SELECT 1 FROM reprise.handler_runs r
			WHERE r.event_id = e.id AND r.topic = e.topic AND r.handler = $1 LIMIT 1 OFFSET 0)
		ON CONFLICT (event_id, topic, handler) DO NOTHING`

	// backfillSQLite is backfillPostgres for SQLite.
	backfillSQLite = `
		INSERT INTO reprise.handler_runs (event_id, topic, handler, key, published_at, replay_id, due_at)
		SELECT e.id, e.topic, $1, e.key, e.published_at, CAST($3 AS bigint),
		       strftime('%Y-%m-%dT%H:%M:%fZ', max((SELECT o.next_due FROM reprise.operations o WHERE o.id = $3), now()), ((row_number() OVER (ORDER BY e.published_at, e.id) - 1) * CAST($2 AS float8)) || ' seconds')
		FROM reprise.events e
		WHERE e.topic = $4
		AND (e.published_at, e.id) > ($5, $6) AND (e.published_at, e.id) <= ($7, $8) AND e.published_at < $9
		AND NOT EXISTS (
			SELECT 1 FROM reprise.handler_runs r
			WHERE r.event_id = e.id AND r.topic = e.topic AND r.handler = $1 LIMIT 1 OFFSET 0)
		ON CONFLICT (event_id, topic, handler) DO NOTHING`
)
