package operate

// The statements of Release, Cancel and Undo, for a range of the operation's runs: $1
// operation, $2 the run after which the range begins, $3 its last run.
const (
	// releaseRunsPostgres makes held runs due, at the operation's rate: see replayTakenPostgres.
	//
	// $4 seconds between two runs, $5 the time until which runs are held.
	releaseRunsPostgres = `
		UPDATE reprise.handler_runs AS r
		SET due_at = greatest((SELECT o.next_due FROM reprise.operations o WHERE o.id = $1), now()) + ((h.n - 1) * CAST($4 AS float8)) * interval '1 second'
		FROM (
			SELECT id, row_number() OVER (ORDER BY id) AS n
			FROM reprise.handler_runs
			WHERE replay_id = $1 AND id > $2 AND id <= $3 AND due_at = $5
		) h
		WHERE r.id = h.id AND r.due_at = $5`

	// releaseRunsSQLite makes held runs due, at the operation's rate: see replayTakenSQLite.
	//
	// $4 seconds between two runs, $5 the time until which runs are held.
	releaseRunsSQLite = `
		UPDATE reprise.handler_runs AS r
		SET due_at = strftime('%Y-%m-%dT%H:%M:%fZ', max((SELECT o.next_due FROM reprise.operations o WHERE o.id = $1), now()), ((h.n - 1) * CAST($4 AS float8)) || ' seconds')
		FROM (
			SELECT id, row_number() OVER (ORDER BY id) AS n
			FROM reprise.handler_runs
			WHERE replay_id = $1 AND id > $2 AND id <= $3 AND due_at = $5
		) h
		WHERE r.id = h.id AND r.due_at = $5`

	// forgetBackfilled deletes what operations note of the runs that deleteBackfilled
	// deletes: a discard that was undone has left rows.
	forgetBackfilled = `
		DELETE FROM reprise.operation_runs WHERE run_id IN (
			SELECT id FROM reprise.handler_runs
			WHERE replay_id = $1 AND id > $2 AND id <= $3 AND due_at IS NOT NULL AND attempt = 0)`

	// deleteBackfilled deletes the runs of a backfill that were not tried.
	deleteBackfilled = `
		DELETE FROM reprise.handler_runs
		WHERE replay_id = $1 AND id > $2 AND id <= $3 AND due_at IS NOT NULL AND attempt = 0`

	// restoreReplayed gives waiting runs of a replay that were not tried their former
	// state. The sum keeps PostgreSQL from finding the rows of operation_runs by their
	// operation: the statistics do not know an operation that has just taken up runs, so
	// that the plan would read all rows of the operation for each run.
	restoreReplayed = `
		UPDATE reprise.handler_runs AS r
		SET status = t.status, finished_at = t.finished_at, due_at = NULL, instance = t.instance,
		    failed_at = CASE WHEN t.status = 'FAILED' THEN t.finished_at END,
		    discarded_at = CASE WHEN t.status = 'DISCARDED' THEN t.finished_at END,
		    tries = t.tries, cycle = t.cycle, replay_id = t.replay_id
		FROM reprise.operation_runs t
		WHERE r.replay_id = $1 AND r.id > $2 AND r.id <= $3 AND r.due_at IS NOT NULL
		AND t.run_id = r.id AND t.run_id > $2 AND t.run_id <= $3 AND (t.operation_id + 0) = $1
		AND (t.attempt = r.attempt OR r.error_kind IS NULL)`

	// endTried ends the waiting runs that were tried.
	endTried = `
		UPDATE reprise.handler_runs
		SET status = CASE WHEN error_kind IS NULL THEN 'DISCARDED' ELSE 'FAILED' END, finished_at = now(), due_at = NULL,
		    failed_at = CASE WHEN error_kind IS NOT NULL THEN now() END, discarded_at = CASE WHEN error_kind IS NULL THEN now() END
		WHERE replay_id = $1 AND id > $2 AND id <= $3 AND due_at IS NOT NULL`

	// restoreDiscarded gives runs of a discard their former state, unless another
	// operation has taken them up since. For the sum, see restoreReplayed.
	//
	// $2 and $3 are places in the operation instead of runs.
	restoreDiscarded = `
		UPDATE reprise.handler_runs AS r
		SET status = t.status, finished_at = t.finished_at, due_at = t.due_at,
		    failed_at = CASE WHEN t.status = 'FAILED' THEN t.finished_at END,
		    discarded_at = CASE WHEN t.status = 'DISCARDED' THEN t.finished_at END
		FROM reprise.operation_runs t
		WHERE t.operation_id = $1 AND t.place > $2 AND t.place <= $3
		AND r.id = t.run_id AND r.discarded_at IS NOT NULL
		AND NOT EXISTS (
			SELECT 1 FROM reprise.operation_runs later WHERE later.run_id = r.id AND (later.operation_id + 0) > $1)`

	// countLeft counts the runs of a discard that have not been deleted, and those of
	// them that another operation has taken up since. For the sum, see restoreReplayed.
	//
	// $1 operation.
	countLeft = `
		SELECT count(*) AS all_runs,
		       coalesce(sum(CASE WHEN EXISTS (
		           SELECT 1 FROM reprise.operation_runs later WHERE later.run_id = t.run_id AND (later.operation_id + 0) > $1
		       ) THEN 1 ELSE 0 END), 0) AS later
		FROM reprise.operation_runs t WHERE t.operation_id = $1`
)
