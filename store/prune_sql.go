package store

// The statements of PruneBatch. Each selects the events of the batch anew, without those
// of which a run must be kept: a run that waits or is leased; that ended too late; that
// failed, or was discarded by an operation that is not undone, unless these are pruned.
//
// $1 time and $2 id of the event after which the batch begins, $3 the time before which
// events are pruned, $4 time and $5 id of the last event of the batch, $6 whether FAILED
// and $7 whether DISCARDED runs are pruned.
const (
	// countPrunedRuns counts the runs of the batch.
	countPrunedRuns = `
		SELECT count(*) FROM reprise.handler_runs
		WHERE (event_id, topic) IN (
			SELECT e.id, e.topic FROM reprise.events e
			WHERE (e.published_at, e.id) > ($1, $2) AND (e.published_at, e.id) <= ($4, $5) AND e.published_at < $3
			AND NOT EXISTS (
				SELECT 1 FROM reprise.handler_runs r
				WHERE r.event_id = e.id AND r.topic = e.topic
				AND (r.status = 'PENDING' OR r.finished_at >= $3
				     OR NOT $6 AND r.failed_at IS NOT NULL
				     OR NOT $7 AND r.discarded_at IS NOT NULL AND EXISTS (
					SELECT 1 FROM reprise.operations o
					WHERE o.id = (SELECT max(t.operation_id) FROM reprise.operation_runs t WHERE t.run_id = r.id)
					AND o.kind = 'discard' AND o.state <> 'undone'))))`

	// countPrunedEvents counts the events of the batch.
	countPrunedEvents = `
		SELECT count(*) FROM reprise.events e
		WHERE (e.published_at, e.id) > ($1, $2) AND (e.published_at, e.id) <= ($4, $5) AND e.published_at < $3
		AND NOT EXISTS (
			SELECT 1 FROM reprise.handler_runs r
			WHERE r.event_id = e.id AND r.topic = e.topic
			AND (r.status = 'PENDING' OR r.finished_at >= $3
			     OR NOT $6 AND r.failed_at IS NOT NULL
			     OR NOT $7 AND r.discarded_at IS NOT NULL AND EXISTS (
				SELECT 1 FROM reprise.operations o
				WHERE o.id = (SELECT max(t.operation_id) FROM reprise.operation_runs t WHERE t.run_id = r.id)
				AND o.kind = 'discard' AND o.state <> 'undone')))`

	// lockPruned locks the runs of the batch.
	lockPruned = `
		SELECT r.id FROM reprise.handler_runs r
		WHERE (r.event_id, r.topic) IN (
			SELECT e.id, e.topic FROM reprise.events e
			WHERE (e.published_at, e.id) > ($1, $2) AND (e.published_at, e.id) <= ($4, $5) AND e.published_at < $3
			AND NOT EXISTS (
				SELECT 1 FROM reprise.handler_runs r
				WHERE r.event_id = e.id AND r.topic = e.topic
				AND (r.status = 'PENDING' OR r.finished_at >= $3
				     OR NOT $6 AND r.failed_at IS NOT NULL
				     OR NOT $7 AND r.discarded_at IS NOT NULL AND EXISTS (
					SELECT 1 FROM reprise.operations o
					WHERE o.id = (SELECT max(t.operation_id) FROM reprise.operation_runs t WHERE t.run_id = r.id)
					AND o.kind = 'discard' AND o.state <> 'undone'))))
		ORDER BY r.id FOR UPDATE`

	// pruneOperationRuns deletes what operations note of the runs of the batch.
	pruneOperationRuns = `
		DELETE FROM reprise.operation_runs WHERE run_id IN (
			SELECT r.id FROM reprise.handler_runs r
			WHERE (r.event_id, r.topic) IN (
				SELECT e.id, e.topic FROM reprise.events e
				WHERE (e.published_at, e.id) > ($1, $2) AND (e.published_at, e.id) <= ($4, $5) AND e.published_at < $3
				AND NOT EXISTS (
					SELECT 1 FROM reprise.handler_runs r
					WHERE r.event_id = e.id AND r.topic = e.topic
					AND (r.status = 'PENDING' OR r.finished_at >= $3
					     OR NOT $6 AND r.failed_at IS NOT NULL
					     OR NOT $7 AND r.discarded_at IS NOT NULL AND EXISTS (
						SELECT 1 FROM reprise.operations o
						WHERE o.id = (SELECT max(t.operation_id) FROM reprise.operation_runs t WHERE t.run_id = r.id)
						AND o.kind = 'discard' AND o.state <> 'undone')))))`

	// pruneAttempts deletes the attempts of the runs of the batch.
	pruneAttempts = `
		DELETE FROM reprise.run_attempts WHERE run_id IN (
			SELECT r.id FROM reprise.handler_runs r
			WHERE (r.event_id, r.topic) IN (
				SELECT e.id, e.topic FROM reprise.events e
				WHERE (e.published_at, e.id) > ($1, $2) AND (e.published_at, e.id) <= ($4, $5) AND e.published_at < $3
				AND NOT EXISTS (
					SELECT 1 FROM reprise.handler_runs r
					WHERE r.event_id = e.id AND r.topic = e.topic
					AND (r.status = 'PENDING' OR r.finished_at >= $3
					     OR NOT $6 AND r.failed_at IS NOT NULL
					     OR NOT $7 AND r.discarded_at IS NOT NULL AND EXISTS (
						SELECT 1 FROM reprise.operations o
						WHERE o.id = (SELECT max(t.operation_id) FROM reprise.operation_runs t WHERE t.run_id = r.id)
						AND o.kind = 'discard' AND o.state <> 'undone')))))`

	// pruneRuns deletes the runs of the batch.
	pruneRuns = `
		DELETE FROM reprise.handler_runs
		WHERE (event_id, topic) IN (
			SELECT e.id, e.topic FROM reprise.events e
			WHERE (e.published_at, e.id) > ($1, $2) AND (e.published_at, e.id) <= ($4, $5) AND e.published_at < $3
			AND NOT EXISTS (
				SELECT 1 FROM reprise.handler_runs r
				WHERE r.event_id = e.id AND r.topic = e.topic
				AND (r.status = 'PENDING' OR r.finished_at >= $3
				     OR NOT $6 AND r.failed_at IS NOT NULL
				     OR NOT $7 AND r.discarded_at IS NOT NULL AND EXISTS (
					SELECT 1 FROM reprise.operations o
					WHERE o.id = (SELECT max(t.operation_id) FROM reprise.operation_runs t WHERE t.run_id = r.id)
					AND o.kind = 'discard' AND o.state <> 'undone'))))`

	// pruneEvents deletes the events of the batch.
	pruneEvents = `
		DELETE FROM reprise.events
		WHERE (id, topic) IN (
			SELECT e.id, e.topic FROM reprise.events e
			WHERE (e.published_at, e.id) > ($1, $2) AND (e.published_at, e.id) <= ($4, $5) AND e.published_at < $3
			AND NOT EXISTS (
				SELECT 1 FROM reprise.handler_runs r
				WHERE r.event_id = e.id AND r.topic = e.topic
				AND (r.status = 'PENDING' OR r.finished_at >= $3
				     OR NOT $6 AND r.failed_at IS NOT NULL
				     OR NOT $7 AND r.discarded_at IS NOT NULL AND EXISTS (
					SELECT 1 FROM reprise.operations o
					WHERE o.id = (SELECT max(t.operation_id) FROM reprise.operation_runs t WHERE t.run_id = r.id)
					AND o.kind = 'discard' AND o.state <> 'undone'))))`
)
