package actions

const (
	// write records an action and returns its id.
	//
	// $1 kind, $2 operation or NULL, $3 selection as JSON, $4 requester, $5 reason.
	write = `
		INSERT INTO reprise.actions (kind, operation_id, selection, requested_by, reason) VALUES ($1, $2, $3, $4, $5) RETURNING id`

	// count adds to the counts of an action.
	//
	// $1 action, $2 runs, $3 events, $4 events of the outbox.
	count = `
		UPDATE reprise.actions SET runs = runs + $2, events = events + $3, outgoing = outgoing + $4 WHERE id = $1`

	// last returns the last action on an operation; 0 for none.
	//
	// $1 operation, $2 kind.
	last = `
		SELECT coalesce(max(id), 0) FROM reprise.actions WHERE operation_id = $1 AND kind = $2`
)
