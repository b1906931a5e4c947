package operate

// The statements that apply an operation to the runs that it has just taken up. A run is
// due at the operation's rate, from next_due or, if next_due is over, from now. The
// subquery reads next_due once for the statement; a join may read all operations for
// each run.
const (
	// discardTaken makes the runs DISCARDED.
	//
	// $1 operation, $2 place of the last run that was taken up before.
	discardTaken = `
		UPDATE reprise.handler_runs AS r
		SET status = 'DISCARDED', finished_at = now(), failed_at = NULL, discarded_at = now(), due_at = NULL
		FROM reprise.operation_runs t
		WHERE t.operation_id = $1 AND t.place > $2 AND r.id = t.run_id`

	// replayTakenPostgres makes the runs due.
	//
	// $1 operation, $2 place of the last run that was taken up before, $3 seconds between
	// two runs.
	replayTakenPostgres = `
		UPDATE reprise.handler_runs AS r
		SET status = 'PENDING', finished_at = NULL, failed_at = NULL, discarded_at = NULL, instance = NULL, tries = 0, cycle = 0, replay_id = t.operation_id,
		    due_at = greatest((SELECT o.next_due FROM reprise.operations o WHERE o.id = $1), now()) + ((t.place - $2 - 1) * CAST($3 AS float8)) * interval '1 second'
		FROM reprise.operation_runs t
		WHERE t.operation_id = $1 AND t.place > $2 AND r.id = t.run_id`

	// replayTakenSQLite makes the runs due.
	//
	// $1 operation, $2 place of the last run that was taken up before, $3 seconds between
	// two runs.
	replayTakenSQLite = `
		UPDATE reprise.handler_runs AS r
		SET status = 'PENDING', finished_at = NULL, failed_at = NULL, discarded_at = NULL, instance = NULL, tries = 0, cycle = 0, replay_id = t.operation_id,
		    due_at = strftime('%Y-%m-%dT%H:%M:%fZ', max((SELECT o.next_due FROM reprise.operations o WHERE o.id = $1), now()), ((t.place - $2 - 1) * CAST($3 AS float8)) || ' seconds')
		FROM reprise.operation_runs t
		WHERE t.operation_id = $1 AND t.place > $2 AND r.id = t.run_id`

	// moveOnPostgres writes the progress of the operation.
	//
	// $1 operation, $2 number of runs taken up, $3 cursor, $4 whether the operation is
	// complete, $5 number of runs taken up since the last progress, $6 seconds between
	// two runs.
	moveOnPostgres = `
		UPDATE reprise.operations
		SET taken = $2, cursor = $3, complete = $4,
		    next_due = greatest((SELECT o.next_due FROM reprise.operations o WHERE o.id = $1), now()) + (CAST($5 AS float8) * CAST($6 AS float8)) * interval '1 second'
		WHERE id = $1`

	// moveOnSQLite writes the progress of the operation.
	//
	// $1 operation, $2 number of runs taken up, $3 cursor, $4 whether the operation is
	// complete, $5 number of runs taken up since the last progress, $6 seconds between
	// two runs.
	moveOnSQLite = `
		UPDATE reprise.operations
		SET taken = $2, cursor = $3, complete = $4,
		    next_due = strftime('%Y-%m-%dT%H:%M:%fZ', max((SELECT o.next_due FROM reprise.operations o WHERE o.id = $1), now()), (CAST($5 AS float8) * CAST($6 AS float8)) || ' seconds')
		WHERE id = $1`
)
