package queue

// The statements of Settle. SQLite needs none.
//
// In each, $1 is the topic and $2 the handler of the subscription.
const (
	// isUnsettledPostgres returns whether the subscription waits for transactions.
	isUnsettledPostgres = `
		SELECT EXISTS (SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2 AND open_then IS NOT NULL)`

	// lockSubscriptionPostgres lets one caller look at a time, so that each reads the
	// result of the last look.
	lockSubscriptionPostgres = `SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2 FOR UPDATE`

	// lookPostgres writes into a committed subscription which transactions it waits for,
	// and returns them: at the first look all open ones, later those that are left.
	//
	// Open are the transactions of sessions in this database, by their virtual ids, which
	// every role may see, and prepared ones. PREPARE TRANSACTION takes the virtual id
	// away. Therefore a look also stores the transaction ids of these sessions, if they
	// have one. When a transaction has ended since the last look, a transaction that was
	// prepared since then may be the same one. A clock may be set back by 1 minute.
	lookPostgres = `
		WITH open AS MATERIALIZED (
			SELECT l.virtualxid AS id FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid AND a.datname = current_database()
			WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
			UNION ALL
			SELECT CAST(transaction AS text) FROM pg_prepared_xacts WHERE database = current_database()
		), waited AS MATERIALIZED (
			SELECT w.id FROM reprise.subscriptions s, json_array_elements_text(s.open_then -> 'waits') w (id)
			WHERE s.topic = $1 AND s.handler = $2
		), left_over AS (
			SELECT id FROM open WHERE id IN (SELECT id FROM waited)
			UNION
			SELECT CAST(x.transactionid AS text) FROM pg_locks v JOIN pg_locks x ON x.pid = v.pid AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'
			WHERE v.locktype = 'virtualxid' AND v.mode = 'ExclusiveLock' AND v.virtualxid IN (SELECT id FROM waited)
			UNION
			SELECT CAST(p.transaction AS text) FROM pg_prepared_xacts p, reprise.subscriptions s
			WHERE p.database = current_database() AND s.topic = $1 AND s.handler = $2
			AND p.prepared >= CAST(s.open_then ->> 'looked' AS timestamptz) - interval '1 minute'
			AND EXISTS (SELECT id FROM waited EXCEPT SELECT id FROM open)
		)
		UPDATE reprise.subscriptions
		SET open_then = (CAST(open_then AS jsonb) || jsonb_build_object(
			'waits', CASE WHEN open_then -> 'waits' IS NULL THEN (SELECT coalesce(jsonb_agg(id ORDER BY id), '[]') FROM open)
			         ELSE (SELECT coalesce(jsonb_agg(id ORDER BY id), '[]') FROM left_over) END,
			'until', coalesce(CAST(open_then ->> 'until' AS timestamptz), clock_timestamp() + interval '1 minute'),
			'looked', clock_timestamp()))::json
		WHERE topic = $1 AND handler = $2 AND open_then IS NOT NULL
		RETURNING open_then ->> 'waits'`

	// settlePostgres creates the missing runs for the events of transactions that were
	// open when the subscription was committed, or began later: xmin is not before
	// "next", or among "open". A transaction id has 32 bits here and "next" 64. As in
	// PostgreSQL, half of all ids are before an id.
	settlePostgres = `
		INSERT INTO reprise.handler_runs (event_id, topic, handler, key, published_at, due_at)
		SELECT e.id, e.topic, s.handler, e.key, e.published_at, now()
		FROM reprise.subscriptions s
		JOIN reprise.events e ON e.topic = s.topic
		WHERE s.topic = $1 AND s.handler = $2 AND e.source = 'publish'
		AND e.published_at >= coalesce(CAST(s.open_then ->> 'from' AS timestamptz), '-infinity')
		AND e.published_at < CAST(s.open_then ->> 'until' AS timestamptz)
		AND (NOT ((CAST(CAST(e.xmin AS text) AS bigint) - CAST(s.open_then ->> 'next' AS bigint) % 4294967296 + 6442450944) % 4294967296 - 2147483648 < 0)
		     OR CAST(CAST(e.xmin AS text) AS bigint) IN (SELECT CAST(o AS bigint) FROM json_array_elements_text(s.open_then -> 'open') o))
		AND NOT EXISTS (SELECT 1 FROM reprise.handler_runs r WHERE r.event_id = e.id AND r.topic = e.topic AND r.handler = s.handler)
		ORDER BY e.published_at, e.id
		ON CONFLICT (event_id, topic, handler) DO NOTHING`

	// settledPostgres notes that the subscription waits for no transaction.
	settledPostgres = `UPDATE reprise.subscriptions SET open_then = NULL WHERE topic = $1 AND handler = $2`
)
