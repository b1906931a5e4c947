package queue

// The statements of Subscribe and SubscribeTx. Those with Tx neither change nor lock an
// existing subscription.
//
// On PostgreSQL, a new subscription stores the open transactions in open_then, for
// Settle. They are found by their locks. Released subtransactions have no locks; they
// are found by the status of each id since the oldest open one, at most 2,000,000 ids.
// An event of an open transaction is at most as old as the oldest of them, minus the 1
// minute by which a clock may be set back. "from" is NULL where this role may not see
// that time.
const (
	// updateSubscription writes the policy of an existing subscription.
	//
	// $1 topic, $2 handler, $3 policy.
	updateSubscription = `
		UPDATE reprise.subscriptions SET policy = $3, last_seen_at = now() WHERE topic = $1 AND handler = $2`

	// hasSubscription returns whether the subscription exists.
	//
	// $1 topic, $2 handler.
	hasSubscription = `SELECT EXISTS (SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2)`

	// subscribePostgres writes a subscription, new or not.
	//
	// $1 topic, $2 handler, $3 policy.
	subscribePostgres = `
		INSERT INTO reprise.subscriptions (topic, handler, policy, open_then)
		VALUES ($1, $2, $3, (
			SELECT json_build_object(
				'next', CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint),
				'open', (SELECT coalesce(json_agg(o.xid), '[]') FROM (
					SELECT CAST(CAST(transactionid AS text) AS bigint) AS xid
					FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
					UNION
					SELECT x % 4294967296 FROM (
						SELECT CAST(CAST(pg_snapshot_xmin(s) AS text) AS bigint) AS oldest, CAST(CAST(pg_snapshot_xmax(s) AS text) AS bigint) AS next
						FROM pg_current_snapshot() s) s, generate_series(greatest(s.oldest, s.next - 2000000), s.next - 1) x
					WHERE pg_xact_status(CAST(CAST(x AS text) AS xid8)) = 'in progress') o),
				'from', CASE WHEN EXISTS (SELECT 1 FROM pg_prepared_xacts WHERE database = current_database()) OR bool_or(xact_start IS NULL)
				        THEN NULL ELSE least(min(xact_start), now()) - interval '1 minute' END)
			FROM pg_stat_activity a
			WHERE datname = current_database() AND pid <> pg_backend_pid()
			AND EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock')
		))
		ON CONFLICT (topic, handler) DO UPDATE SET policy = excluded.policy, last_seen_at = now()`

	// subscribeTxPostgres writes a new subscription.
	//
	// $1 topic, $2 handler, $3 policy.
	subscribeTxPostgres = `
		INSERT INTO reprise.subscriptions (topic, handler, policy, open_then)
		VALUES ($1, $2, $3, (
			SELECT json_build_object(
				'next', CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint),
				'open', (SELECT coalesce(json_agg(o.xid), '[]') FROM (
					SELECT CAST(CAST(transactionid AS text) AS bigint) AS xid
					FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
					UNION
					SELECT x % 4294967296 FROM (
						SELECT CAST(CAST(pg_snapshot_xmin(s) AS text) AS bigint) AS oldest, CAST(CAST(pg_snapshot_xmax(s) AS text) AS bigint) AS next
						FROM pg_current_snapshot() s) s, generate_series(greatest(s.oldest, s.next - 2000000), s.next - 1) x
					WHERE pg_xact_status(CAST(CAST(x AS text) AS xid8)) = 'in progress') o),
				'from', CASE WHEN EXISTS (SELECT 1 FROM pg_prepared_xacts WHERE database = current_database()) OR bool_or(xact_start IS NULL)
				        THEN NULL ELSE least(min(xact_start), now()) - interval '1 minute' END)
			FROM pg_stat_activity a
			WHERE datname = current_database() AND pid <> pg_backend_pid()
			AND EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock')
		))
		ON CONFLICT (topic, handler) DO NOTHING`

	// subscribeSQLite writes a subscription, new or not.
	//
	// $1 topic, $2 handler, $3 policy.
	subscribeSQLite = `
		INSERT INTO reprise.subscriptions (topic, handler, policy) VALUES ($1, $2, $3)
		ON CONFLICT (topic, handler) DO UPDATE SET policy = excluded.policy, last_seen_at = now()`

	// subscribeTxSQLite writes a new subscription.
	//
	// $1 topic, $2 handler, $3 policy.
	subscribeTxSQLite = `
		INSERT INTO reprise.subscriptions (topic, handler, policy) VALUES ($1, $2, $3)
		ON CONFLICT (topic, handler) DO NOTHING`
)
