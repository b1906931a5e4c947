package queue

// The statements of Register and Survey.
const (
	// register makes an instance known, or counts as its heartbeat. A late heartbeat
	// makes it unsteady: see late.
	//
	// $1 id, $2 host, $3 process id, $4 build, $5 handlers, $6 heartbeat interval and $7
	// DeadAfter in seconds.
	register = `
		INSERT INTO reprise.instances AS i (id, host, pid, build, handlers, heartbeat_interval, dead_after, lowest_run, recent_run)
		SELECT $1, $2, $3, $4, $5::json, $6, $7, highest, highest
		FROM (SELECT coalesce(max(id), 0) AS highest FROM reprise.handler_runs) r WHERE true
		ON CONFLICT (id) DO UPDATE
		SET handlers = excluded.handlers, heartbeat_interval = excluded.heartbeat_interval, dead_after = excluded.dead_after,
		    heartbeat_at = now(),
		    steady_since = CASE WHEN i.heartbeat_at < now(-i.dead_after / 2) OR i.heartbeat_at > now(1) THEN now() ELSE i.steady_since END`

	// surveyPostgres returns the columns of a Survey.
	surveyPostgres = `
		SELECT (SELECT coalesce(max(id), 0) FROM reprise.handler_runs) AS newest,
		       (SELECT coalesce(md5(string_agg(concat_ws(' ', topic, handler, since), ' ' ORDER BY topic, handler)), '')
		        FROM reprise.subscriptions) AS subscriptions,
		       (SELECT run_id < up_to FROM reprise.failures_counted) OR EXISTS (SELECT 1 FROM reprise.failure_changes) AS uncounted`

	// surveySQLite returns the columns of a Survey.
	surveySQLite = `
		SELECT (SELECT coalesce(max(id), 0) FROM reprise.handler_runs) AS newest,
		       (SELECT coalesce(group_concat(topic || ' ' || handler || ' ' || since, ' ' ORDER BY topic, handler), '')
		        FROM reprise.subscriptions) AS subscriptions,
		       (SELECT run_id < up_to FROM reprise.failures_counted) AS uncounted`
)
