package queue

// The statements that write what becomes of the runs of an instance that leaves or has
// died.
const (
	// keepAttempts stores the attempts of runs that their instances leave behind.
	//
	// $1 kind of failure, $2 message, $3 runs.
	keepAttempts = `
		INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, instance, started_at)
		SELECT id, attempt, cycle, $1, $2, instance, started_at FROM reprise.handler_runs WHERE id = ANY ($3::bigint[])`

	// makeDue makes runs due again that their instances leave behind.
	//
	// $1 kind of failure, $2 message, $3 tries given back, $4 runs.
	makeDue = `
		UPDATE reprise.handler_runs
		SET instance = NULL, due_at = now(), error_kind = $1, error = $2, fingerprint = NULL, tries = tries - $3
		WHERE id = ANY ($4::bigint[])`

	// keepHeld writes which runs an instance still holds.
	//
	// $1 instance, $2 runs, $3 lowest of the runs.
	keepHeld = `
		UPDATE reprise.instances
		SET held_runs = $2::bigint[], lowest_run = $3, recent_run = (SELECT coalesce(max(id), 0) FROM reprise.handler_runs)
		WHERE id = $1`

	// removeInstances removes instances.
	//
	// $1 ids.
	removeInstances = `DELETE FROM reprise.instances WHERE id = ANY ($1::text[])`
)
