package queue

// The statements of End, EndUnlocked, Succeed and SucceedMarked.
const (
	// succeed ends one leased run as SUCCESS.
	//
	// $1 run, $2 instance, $3 attempt.
	succeed = `
		UPDATE reprise.handler_runs
		SET status = 'SUCCESS', finished_at = now(), error_kind = NULL, error = NULL, fingerprint = NULL
		WHERE id = $1 AND instance = $2 AND attempt = $3 AND status = 'PENDING'`

	// succeedMarkedPostgres is succeed in the transaction of a sqldb.Mark only. The last
	// condition has the expression sqldb.BeganAt.
	//
	// $4 mark.
	succeedMarkedPostgres = `
		UPDATE reprise.handler_runs
		SET status = 'SUCCESS', finished_at = now(), error_kind = NULL, error = NULL, fingerprint = NULL
		WHERE id = $1 AND instance = $2 AND attempt = $3 AND status = 'PENDING'
		AND CAST($4 AS bigint) = CAST(extract(epoch FROM now()) * 1000000 AS bigint)`

	// succeedManyPostgres ends runs of one instance and attempt as SUCCESS. The SELECT
	// around the array hides its length from the planner.
	//
	// $1 runs, $2 instance, $3 attempt.
	succeedManyPostgres = `
		UPDATE reprise.handler_runs
		SET status = 'SUCCESS', finished_at = now(), error_kind = NULL, error = NULL, fingerprint = NULL
		WHERE id = ANY ((SELECT $1::bigint[])::bigint[]) AND instance = $2 AND attempt = $3 AND status = 'PENDING'`

	// succeededPostgres returns those of the runs that ended as SUCCESS.
	//
	// $1 runs, $2 instance, $3 attempt.
	succeededPostgres = `
		SELECT id FROM reprise.handler_runs
		WHERE id = ANY ($1::bigint[]) AND instance = $2 AND attempt = $3 AND status = 'SUCCESS'`

	// endManyPostgres ends leased runs in any way, stores their failed attempts, and
	// returns the leases that held.
	//
	// Arrays with an element for each outcome: $1 runs, $2 instances, $3 attempts, $4
	// statuses, $5 delays in seconds, $6 whether the try is given back, $7 whether the
	// next cycle begins, $8 kinds, $9 messages, $10 stacks and $11 fingerprints of the
	// failures, $12 kinds, $13 messages and $14 stacks of the callbacks' failures, $15
	// whether the failure is stored already.
	endManyPostgres = `
		WITH outcome AS (
			SELECT id, instance, attempt, status, delay, refund, next, on_record,
			       nullif(kind, '') AS kind, message, nullif(stack, '') AS stack, nullif(fingerprint, '') AS fingerprint,
			       nullif(callback_kind, '') AS callback_kind, callback_message, nullif(callback_stack, '') AS callback_stack
			FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::float8[], $6::bool[], $7::bool[],
				$8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bool[])
				AS o (id, instance, attempt, status, delay, refund, next,
					kind, message, stack, fingerprint, callback_kind, callback_message, callback_stack, on_record)
		), ended AS (
			UPDATE reprise.handler_runs r
			SET status = o.status,
			    tries = CASE WHEN o.next THEN 0 ELSE r.tries - o.refund::int END,
			    cycle = r.cycle + o.next::int,
			    instance = CASE WHEN o.status <> 'PENDING' THEN r.instance END,
			    due_at = CASE WHEN o.status = 'PENDING' THEN now() + o.delay * interval '1 second' END,
			    finished_at = CASE WHEN o.status <> 'PENDING' THEN now() END,
			    failed_at = CASE WHEN o.status = 'FAILED' THEN now() END,
			    error_kind = coalesce(o.kind, r.error_kind),
			    error = CASE WHEN o.kind IS NOT NULL THEN o.message ELSE r.error END,
			    fingerprint = CASE WHEN o.kind IS NOT NULL THEN o.fingerprint ELSE r.fingerprint END
			FROM outcome o
			WHERE r.id = ANY ($1::bigint[]) AND r.id = o.id AND r.instance = o.instance AND r.attempt = o.attempt AND r.status = 'PENDING'
			RETURNING r.id, o.attempt, r.cycle - o.next::int AS cycle, o.kind, o.message, o.stack, o.instance, r.started_at, o.on_record,
				o.callback_kind, o.callback_message, o.callback_stack
		), failed AS (
			INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, stack, instance, started_at)
			SELECT id, attempt, cycle, kind, message, stack, instance, started_at
			FROM ended WHERE kind IS NOT NULL AND NOT on_record
			UNION ALL
			SELECT id, attempt, cycle, callback_kind, callback_message, callback_stack, instance, started_at
			FROM ended WHERE callback_kind IS NOT NULL
		)
		SELECT id AS runid, instance, attempt FROM ended`

	// endOneSQLite ends one leased run in any way.
	//
	// $1 run, $2 instance, $3 attempt, $4 status, $5 delay in seconds, $6 whether the
	// try is given back, $7 whether the next cycle begins, $8 kind, $9 message and $10
	// fingerprint of the failure.
	endOneSQLite = `
		UPDATE reprise.handler_runs
		SET status = $4,
		    tries = CASE WHEN $7 THEN 0 ELSE tries - $6 END,
		    cycle = cycle + $7,
		    instance = CASE WHEN $4 <> 'PENDING' THEN instance END,
		    due_at = CASE WHEN $4 = 'PENDING' THEN now($5) END,
		    finished_at = CASE WHEN $4 <> 'PENDING' THEN now() END,
		    failed_at = CASE WHEN $4 = 'FAILED' THEN now() END,
		    error_kind = CASE WHEN $8 <> '' THEN $8 WHEN $4 = 'PENDING' THEN error_kind END,
		    error = CASE WHEN $8 <> '' THEN $9 WHEN $4 = 'PENDING' THEN error END,
		    fingerprint = CASE WHEN $8 <> '' THEN nullif($10, '') WHEN $4 = 'PENDING' THEN fingerprint END
		WHERE id = $1 AND instance = $2 AND attempt = $3 AND status = 'PENDING'`

	// attemptSQLite stores a failed attempt of a run that endOneSQLite has ended.
	//
	// $1 run, $2 attempt, $3 kind, $4 message, $5 stack, $6 instance, $7 whether the
	// next cycle has begun.
	attemptSQLite = `
		INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, stack, instance, started_at)
		SELECT id, $2, cycle - $7, $3, $4, nullif($5, ''), $6, started_at FROM reprise.handler_runs WHERE id = $1`

	// unlockedPostgres locks and returns those of the runs that no other transaction has
	// locked.
	//
	// $1 runs.
	unlockedPostgres = `SELECT id FROM reprise.handler_runs WHERE id = ANY ($1::bigint[]) FOR UPDATE SKIP LOCKED`

	// existingPostgres returns those of the runs that exist, locked or not.
	//
	// $1 runs.
	existingPostgres = `SELECT id FROM reprise.handler_runs WHERE id = ANY ($1::bigint[])`
)
