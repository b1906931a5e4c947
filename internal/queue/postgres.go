package queue

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// postgres sends batches as arrays, so that the text of a statement does not depend on
// the size of the batch.
type postgres struct{}

func wantArrays(wants []Want) (topics, handlers pq.StringArray, ns pq.Int64Array) {
	topics, handlers, ns = make(pq.StringArray, len(wants)), make(pq.StringArray, len(wants)), make(pq.Int64Array, len(wants))
	for i, w := range wants {
		topics[i], handlers[i], ns[i] = w.Topic, w.Handler, int64(w.N)
	}
	return topics, handlers, ns
}

func (p postgres) record(ctx context.Context, q *Queue, e store.Event, handler, instance string, again bool) (taken, error) {
	lease, err := p.recordNew(ctx, q, e, handler, instance)
	if !errors.Is(err, sql.ErrNoRows) {
		return lease, err
	}
	// The event is known. Either its run exists, too, or another event has the id.
	first, err := q.record.Event(ctx, e.Topic, e.ID)
	if err != nil {
		return taken{}, err
	}
	if as, other := another(e, first); other {
		return taken{}, &takenError{as}
	}
	lease, err = p.takeUp(ctx, q, e.EventID(), handler, instance, again)
	if errors.Is(err, sql.ErrNoRows) && !e.Declared { // no run exists yet, and the metadata differs only in incidental fields
		e.Declared = true
		lease, err = p.recordNew(ctx, q, e, handler, instance)
	}
	return lease, err
}

// recordNew records a new run of an event that is new or known with the same payload
// and, unless it is Declared, the same metadata.
func (postgres) recordNew(ctx context.Context, q *Queue, e store.Event, handler, instance string) (lease taken, err error) {
	c := sqldb.Encode(e.Payload, e.Metadata)
	err = q.db.GetContext(ctx, &lease, q.db.SQL(`
		WITH was AS (
			SELECT published_at, payload::text IS NOT DISTINCT FROM CASE WHEN $4 THEN $5::text END
			       AND payload_bytes IS NOT DISTINCT FROM CASE WHEN NOT $4 THEN $6::bytea END
			       AND ($11::boolean OR metadata::text = $7::text) AS same
			FROM reprise.events WHERE id = $1 AND topic = $2
		), event AS (
			INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata, source)
			VALUES ($1, $2, $3, CASE WHEN $4 THEN $5::text::json END, CASE WHEN NOT $4 THEN $6::bytea END, $7::text::json, $8)
			ON CONFLICT (id, topic) DO NOTHING
			RETURNING published_at, true AS same
		), leased AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, instance, attempt, tries, started_at, published_at)
			SELECT $1::text, $2::text, $9::text, $3::text, $10::text, 1, 1, now(), e.published_at
			FROM (SELECT * FROM event UNION ALL SELECT * FROM was) e WHERE e.same
			ON CONFLICT (event_id, topic, handler) DO NOTHING
			RETURNING id, attempt, started_at, published_at
		), lowered AS (
			UPDATE reprise.instances SET lowest_run = least(lowest_run, (SELECT id FROM leased)), held_runs = held_runs || (SELECT id FROM leased)
			WHERE id = $10 AND EXISTS (SELECT 1 FROM leased)
		)
		SELECT id, attempt, started_at, published_at FROM leased`),
		e.ID, e.Topic, e.Key, c.JSON, c.Text, c.Bytes, c.Metadata, e.Source, handler, instance, e.Declared)
	return lease, err
}

func (postgres) takeUp(ctx context.Context, q *Queue, e store.EventID, handler, instance string, again bool) (lease taken, err error) {
	// The lock comes first, so that the statement sees concurrent deliveries and ends.
	err = q.db.GetContext(ctx, &lease, q.db.SQL(`
		WITH was AS (
			SELECT id, status, attempt, cycle, instance, started_at, due_at FROM reprise.handler_runs
			WHERE event_id = $1 AND topic = $2 AND handler = $3
			FOR UPDATE
		), abandoned AS (
			INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, instance, started_at)
			SELECT id, attempt, cycle, 'abandoned', 'the message was delivered again before the handler had ended', instance, started_at
			FROM was WHERE status = 'PENDING' AND due_at IS NULL
		), leased AS (
			UPDATE reprise.handler_runs r
			SET status = 'PENDING', attempt = r.attempt + 1, tries = 1, instance = $4, started_at = now(), due_at = NULL,
			    finished_at = NULL, failed_at = NULL
			FROM was WHERE r.id = was.id AND (was.status IN ('PENDING', 'FAILED') OR ($5 AND was.status = 'SUCCESS'))
			RETURNING r.id, r.attempt, r.started_at, r.published_at, r.replay_id, r.error_kind, r.error, r.fingerprint
		), lowered AS (
			UPDATE reprise.instances SET lowest_run = least(lowest_run, (SELECT id FROM leased)), held_runs = held_runs || (SELECT id FROM leased)
			WHERE id = $4 AND EXISTS (SELECT 1 FROM leased)
		)
		SELECT id, attempt, started_at, published_at, coalesce(replay_id, 0) AS replay_id,
		       coalesce(error_kind, '') AS error_kind, coalesce(error, '') AS error, coalesce(fingerprint, '') AS fingerprint FROM leased`),
		e.ID, e.Topic, handler, instance, again)
	return lease, err
}

func (postgres) claim(ctx context.Context, q *Queue, by Claimant, wants []Want) ([]*Claimed, error) {
	topics, handlers, ns := wantArrays(wants)
	var claimed []*Claimed
	var startedAt sqldb.Time
	err := q.db.Query(ctx, q.db.Pool(), q.db.SQL(claimDue), []any{topics, handlers, ns, by.Instance, by.Claims, q.db.IDs(by.Held)}, func(rows *sql.Rows) error {
		claimed = nil
		for rows.Next() { // sqlx would take as long as everything else here
			var r claimedRow
			if err := rows.Scan(&r.RunID, &r.ID, &r.Topic, &r.Handler, &r.Attempt, &r.Tries, &r.Cycle, &r.PublishedAt, &r.StartedAt,
				&r.ReplayID, &r.ErrorKind, &r.Error, &r.Fingerprint,
				&r.Lost, &r.Key, &r.Payload, &r.PayloadBytes, &r.Metadata, &r.Source); err != nil {
				return err
			}
			if claimed == nil {
				startedAt = r.StartedAt
			}
			r.StartedAt, r.RunPublishedAt = startedAt, r.PublishedAt
			q.db.NoteRun(r.RunID)
			claimed = append(claimed, r.claimed(by.Instance))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return claimed, nil
}

// end uses a single statement for the most frequent case: successes of one instance and
// attempt.
func (p postgres) end(ctx context.Context, q *Queue, outcomes []Outcome) (ended []Lease, err error) {
	successes, others := bySuccess(outcomes)
	if len(others) == 0 && len(successes) == 1 {
		for a, ids := range successes {
			return p.succeed(ctx, q, q.db.Pool(), a.instance, a.number, ids)
		}
	}
	err = q.db.InTx(ctx, func(tx *sqlx.Tx) (err error) {
		ended, err = p.endIn(ctx, q, tx, outcomes)
		return err
	})
	return ended, err
}

type attempt struct {
	instance string
	number   int
}

// bySuccess returns the successful runs by instance and attempt, and all other
// outcomes.
func bySuccess(outcomes []Outcome) (successes map[attempt]pq.Int64Array, others []Outcome) {
	successes = map[attempt]pq.Int64Array{}
	for _, o := range outcomes {
		if o.Status != store.Success {
			others = append(others, o)
			continue
		}
		key := attempt{o.Lease.Instance, o.Lease.Attempt}
		successes[key] = append(successes[key], o.Lease.RunID)
	}
	return successes, others
}

// endIn writes the successes without a join, in one statement for each instance and
// attempt. In a join with an array of unknown length, the planner would read the whole
// table or compare every pair.
func (p postgres) endIn(ctx context.Context, q *Queue, tx *sqlx.Tx, outcomes []Outcome) (ended []Lease, err error) {
	successes, others := bySuccess(outcomes)
	for a, ids := range successes {
		leases, err := p.succeed(ctx, q, tx, a.instance, a.number, ids)
		if err != nil {
			return nil, err
		}
		ended = append(ended, leases...)
	}
	for chunk := range slices.Chunk(others, 100) {
		leases, err := p.endOthers(ctx, q, tx, chunk)
		if err != nil {
			return nil, err
		}
		ended = append(ended, leases...)
	}
	return ended, nil
}

func (postgres) succeed(ctx context.Context, q *Queue, db sqlx.ExtContext, instance string, attempt int, ids pq.Int64Array) ([]Lease, error) {
	n, err := q.db.Change(ctx, db, q.db.SQL(`
		UPDATE reprise.handler_runs
		SET status = 'SUCCESS', finished_at = now(), error_kind = NULL, error = NULL, fingerprint = NULL
		WHERE id = ANY ((SELECT $1::bigint[])::bigint[]) AND instance = $2 AND attempt = $3 AND status = 'PENDING'`), ids, instance, attempt)
	if err != nil {
		return nil, err
	}
	if int(n) < len(ids) { // some leases were lost: find out which
		asked := ids
		ids = nil
		if err := sqlx.SelectContext(ctx, db, &ids, q.db.SQL(`
			SELECT id FROM reprise.handler_runs
			WHERE id = ANY ($1::bigint[]) AND instance = $2 AND attempt = $3 AND status = 'SUCCESS'`), asked, instance, attempt); err != nil {
			return nil, err
		}
	}
	ended := make([]Lease, len(ids))
	for i, id := range ids {
		ended[i] = Lease{RunID: id, Instance: instance, Attempt: attempt}
	}
	return ended, nil
}

func (postgres) endOthers(ctx context.Context, q *Queue, tx *sqlx.Tx, outcomes []Outcome) ([]Lease, error) {
	n := len(outcomes)
	var (
		ids       = make(pq.Int64Array, n)
		instances = make(pq.StringArray, n)
		attempts  = make(pq.Int64Array, n)
		statuses  = make(pq.StringArray, n)
		delays    = make(pq.Float64Array, n)
		refunds   = make(pq.BoolArray, n)
		nexts     = make(pq.BoolArray, n)
		onRecord  = make(pq.BoolArray, n)
		failures  = newFailureArrays(n)
		callbacks = newFailureArrays(n)
	)
	for i, o := range outcomes {
		ids[i], instances[i], attempts[i] = o.Lease.RunID, o.Lease.Instance, int64(o.Lease.Attempt)
		statuses[i], delays[i], refunds[i], nexts[i] = string(o.Status), o.Delay.Seconds(), o.Refund, o.NextCycle
		onRecord[i] = o.OnRecord
		failures.set(i, o.Failure)
		callbacks.set(i, o.Callback)
	}
	var ended []Lease
	err := tx.SelectContext(ctx, &ended, q.db.SQL(`
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
		SELECT id AS runid, instance, attempt FROM ended`), ids, instances, attempts, statuses, delays, refunds, nexts,
		failures.kinds, failures.messages, failures.stacks, failures.fingerprints,
		callbacks.kinds, callbacks.messages, callbacks.stacks, onRecord)
	return ended, err
}

type failureArrays struct {
	kinds, messages, stacks, fingerprints pq.StringArray
}

func newFailureArrays(n int) failureArrays {
	return failureArrays{make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n)}
}

func (a failureArrays) set(i int, f *store.Failure) {
	if f != nil {
		a.kinds[i], a.messages[i], a.stacks[i], a.fingerprints[i] = string(f.Kind), f.Message, f.Stack, f.Fingerprint
	}
}
