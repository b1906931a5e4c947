package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// postgres sends batches as arrays, so that a statement's text does not depend
// on their size.
type postgres struct{}

func (postgres) insert(events []Event, lease LeaseOnInsert) (string, []any) {
	n := len(events)
	var (
		ids      = make(pq.StringArray, n)
		topics   = make(pq.StringArray, n)
		keys     = make(pq.StringArray, n)
		json     = make(pq.BoolArray, n)
		texts    = make(pq.StringArray, n)
		bytes    = make(pq.ByteaArray, n)
		metadata = make(pq.StringArray, n)
	)
	for i, e := range events {
		c := encode(e)
		ids[i], topics[i], keys[i], metadata[i] = e.ID, e.Topic, e.Key, c.metadata
		json[i], texts[i], bytes[i] = c.json, c.text, c.bytes
	}
	leaseTopics, leaseHandlers, leaseNs := wantArrays(lease.Wants)
	return `
		WITH published AS (
			INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata)
			SELECT id, topic, key, CASE WHEN json THEN text::json END, CASE WHEN NOT json THEN bytes END, metadata::json
			FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::text[], $6::bytea[], $7::text[])
				WITH ORDINALITY AS e (id, topic, key, json, text, bytes, metadata, place)
			ORDER BY place
			ON CONFLICT (id, topic) DO NOTHING
			RETURNING id, topic, key
		), known AS ( -- locked, so that nobody forgets the instance before the leases are committed
			SELECT id FROM reprise.instances WHERE id = $8 FOR KEY SHARE
		), lease AS (
			SELECT l.topic, l.handler, l.n
			FROM unnest($9::text[], $10::text[], $11::bigint[]) AS l (topic, handler, n), known
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, instance, due_at, started_at)
			SELECT p.id, p.topic, s.handler, p.key,
			       CASE WHEN l.n IS NULL THEN 0 ELSE 1 END,
			       CASE WHEN l.n IS NOT NULL THEN $8 END,
			       CASE WHEN l.n IS NULL THEN now() END,
			       CASE WHEN l.n IS NOT NULL THEN now() END
			FROM (
				SELECT *, row_number() OVER (PARTITION BY topic ORDER BY place) AS nth
				FROM (SELECT *, row_number() OVER () AS place FROM published) placed
			) p
			JOIN reprise.subscriptions s ON s.topic = p.topic
			LEFT JOIN lease l ON l.topic = s.topic AND l.handler = s.handler AND p.nth <= l.n
			ORDER BY p.place
			RETURNING id, event_id, topic, handler, instance
		)
		SELECT 'event', id, topic, '', 0 FROM published
		UNION ALL
		SELECT 'leased', event_id, topic, handler, id FROM run WHERE instance IS NOT NULL
		UNION ALL
		SELECT 'due', '', '', '', count(*) FROM run WHERE instance IS NULL`,
		[]any{ids, topics, keys, json, texts, bytes, metadata, lease.Instance, leaseTopics, leaseHandlers, leaseNs}
}

func wantArrays(wants []Want) (topics, handlers pq.StringArray, ns pq.Int64Array) {
	topics, handlers, ns = make(pq.StringArray, len(wants)), make(pq.StringArray, len(wants)), make(pq.Int64Array, len(wants))
	for i, w := range wants {
		topics[i], handlers[i], ns[i] = w.Topic, w.Handler, int64(w.N)
	}
	return topics, handlers, ns
}

func (postgres) record(ctx context.Context, s *Store, e Event, handler, instance string, again bool) (Lease, error) {
	c := encode(e)
	lease := Lease{Instance: instance}
	err := s.db.QueryRowxContext(ctx, s.sql(`
		WITH event AS (
			INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata, source)
			VALUES ($1, $2, $3, CASE WHEN $4 THEN $5::text::json END, CASE WHEN NOT $4 THEN $6::bytea END, $7::json, $8)
			ON CONFLICT (id, topic) DO NOTHING
		), leased AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, instance, attempt, started_at)
			VALUES ($1, $2, $9, $3, $10, 1, now())
			ON CONFLICT (event_id, topic, handler) DO NOTHING
			RETURNING id, attempt
		), lowered AS (
			UPDATE reprise.instances SET lowest_run = (SELECT id FROM leased)
			WHERE id = $10 AND lowest_run > (SELECT id FROM leased)
		)
		SELECT id, attempt FROM leased`),
		e.ID, e.Topic, e.Key, c.json, c.text, c.bytes, c.metadata, e.Source, handler, instance,
	).Scan(&lease.RunID, &lease.Attempt)
	if !errors.Is(err, sql.ErrNoRows) {
		return lease, err
	}
	// It was delivered before. Lock first: what others deliver or end at the
	// same time is then seen.
	err = s.db.QueryRowxContext(ctx, s.sql(`
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
			SET status = 'PENDING', attempt = r.attempt + 1, instance = $4, started_at = now(), due_at = NULL, finished_at = NULL
			FROM was WHERE r.id = was.id AND (was.status IN ('PENDING', 'FAILED') OR ($5 AND was.status = 'SUCCESS'))
			RETURNING r.id, r.attempt
		), lowered AS (
			UPDATE reprise.instances SET lowest_run = (SELECT id FROM leased)
			WHERE id = $4 AND lowest_run > (SELECT id FROM leased)
		)
		SELECT id, attempt FROM leased`), e.ID, e.Topic, handler, instance, again,
	).Scan(&lease.RunID, &lease.Attempt)
	return lease, err
}

func (postgres) claim(ctx context.Context, s *Store, instance string, wants []Want) ([]Claimed, error) {
	topics, handlers, ns := wantArrays(wants)
	// The planner does not know how small w.n is. An array and a lateral LIMIT
	// keep it at index scans; joins would make it read both tables whole.
	var rows []claimedRow
	err := s.selectPrepared(ctx, &rows, s.sql(`
		WITH due AS (
			SELECT d.id
			FROM unnest($1::text[], $2::text[], $3::bigint[]) AS w (topic, handler, n),
			LATERAL (
				SELECT r.id FROM reprise.handler_runs r
				WHERE r.topic = w.topic AND r.handler = w.handler AND r.due_at <= now()
				ORDER BY r.due_at, r.id
				LIMIT w.n
				FOR UPDATE SKIP LOCKED
			) d
			WHERE EXISTS (SELECT 1 FROM reprise.instances WHERE id = $4)
		), known AS ( -- locked, so that nobody forgets the instance before the leases are committed
			SELECT id FROM reprise.instances
			WHERE id = $4 AND EXISTS (SELECT 1 FROM due)
			FOR KEY SHARE
		), leased AS (
			UPDATE reprise.handler_runs r
			SET instance = $4, attempt = r.attempt + 1, started_at = now(), due_at = NULL
			WHERE r.id = ANY (ARRAY(SELECT id FROM due)) AND EXISTS (SELECT 1 FROM known)
			RETURNING r.id, r.event_id, r.topic, r.handler, r.attempt
		), lowered AS (
			UPDATE reprise.instances SET lowest_run = (SELECT min(id) FROM leased)
			WHERE id = $4 AND lowest_run > (SELECT min(id) FROM leased)
		)
		SELECT l.id AS run_id, l.event_id, l.topic, l.handler, l.attempt, e.id IS NULL AS lost, coalesce(e.key, '') AS key,
		       e.payload, e.payload_bytes, e.metadata, coalesce(e.source, '') AS source, e.published_at
		FROM leased l LEFT JOIN LATERAL (
			SELECT * FROM reprise.events e WHERE e.id = l.event_id AND e.topic = l.topic LIMIT 1
		) e ON true
		ORDER BY l.id`), topics, handlers, ns, instance)
	if err != nil {
		return nil, err
	}
	return claimedRows(rows, instance), nil
}

// end writes the successes without a join, one statement for each instance and
// attempt, which are few: joined to an array of outcomes whose length it does
// not know, the planner would read the table whole, or compare each with each.
func (p postgres) end(ctx context.Context, s *Store, outcomes []Outcome) ([]Lease, error) {
	type attempt struct {
		instance string
		number   int
	}
	successes := map[attempt]pq.Int64Array{}
	var others []Outcome
	for _, o := range outcomes {
		if o.Status != Success {
			others = append(others, o)
			continue
		}
		key := attempt{o.Lease.Instance, o.Lease.Attempt}
		successes[key] = append(successes[key], o.Lease.RunID)
	}
	if len(others) == 0 && len(successes) == 1 {
		for a, ids := range successes {
			return p.succeed(ctx, s, s.db, a.instance, a.number, ids)
		}
	}
	var ended []Lease
	err := s.inTx(ctx, func(tx *sqlx.Tx) error {
		for a, ids := range successes {
			leases, err := p.succeed(ctx, s, tx, a.instance, a.number, ids)
			if err != nil {
				return err
			}
			ended = append(ended, leases...)
		}
		for chunk := range slices.Chunk(others, 100) {
			leases, err := p.endOthers(ctx, s, tx, chunk)
			if err != nil {
				return err
			}
			ended = append(ended, leases...)
		}
		return nil
	})
	return ended, err
}

func (postgres) succeed(ctx context.Context, s *Store, q Queryer, instance string, attempt int, ids pq.Int64Array) ([]Lease, error) {
	rows, err := s.QueryPrepared(ctx, q, s.sql(`
		UPDATE reprise.handler_runs
		SET status = 'SUCCESS', finished_at = now(), error_kind = NULL, error = NULL, fingerprint = NULL
		WHERE id = ANY ($1::bigint[]) AND instance = $2 AND attempt = $3 AND status = 'PENDING'
		RETURNING id`), ids, instance, attempt)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	ended := make([]Lease, 0, len(ids))
	for rows.Next() {
		l := Lease{Instance: instance, Attempt: attempt}
		if err := rows.Scan(&l.RunID); err != nil {
			return nil, err
		}
		ended = append(ended, l)
	}
	return ended, rows.Err()
}

func (postgres) endOthers(ctx context.Context, s *Store, tx *sqlx.Tx, outcomes []Outcome) ([]Lease, error) {
	n := len(outcomes)
	var (
		ids       = make(pq.Int64Array, n)
		instances = make(pq.StringArray, n)
		attempts  = make(pq.Int64Array, n)
		statuses  = make(pq.StringArray, n)
		delays    = make(pq.Float64Array, n)
		refunds   = make(pq.BoolArray, n)
		kinds     = make(pq.StringArray, n)
		messages  = make(pq.StringArray, n)
		stacks    = make(pq.StringArray, n)
	)
	for i, o := range outcomes {
		ids[i], instances[i], attempts[i] = o.Lease.RunID, o.Lease.Instance, int64(o.Lease.Attempt)
		statuses[i], delays[i], refunds[i] = string(o.Status), o.Delay.Seconds(), o.Refund
		if o.Failure != nil {
			kinds[i], messages[i], stacks[i] = string(o.Failure.Kind), o.Failure.Message, o.Failure.Stack
		}
	}
	var ended []Lease
	err := tx.SelectContext(ctx, &ended, s.sql(`
		WITH outcome AS (
			SELECT id, instance, attempt, status, delay, refund,
			       nullif(kind, '') AS kind, message, nullif(stack, '') AS stack
			FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::float8[], $6::bool[], $7::text[], $8::text[], $9::text[])
				AS o (id, instance, attempt, status, delay, refund, kind, message, stack)
		), ended AS (
			UPDATE reprise.handler_runs r
			SET status = o.status,
			    attempt = r.attempt - o.refund::int,
			    instance = CASE WHEN o.status <> 'PENDING' THEN r.instance END,
			    due_at = CASE WHEN o.status = 'PENDING' THEN now() + o.delay * interval '1 second' END,
			    finished_at = CASE WHEN o.status <> 'PENDING' THEN now() END,
			    error_kind = coalesce(o.kind, r.error_kind),
			    error = CASE WHEN o.kind IS NOT NULL THEN o.message ELSE r.error END
			FROM outcome o
			WHERE r.id = ANY ($1::bigint[]) AND r.id = o.id AND r.instance = o.instance AND r.attempt = o.attempt AND r.status = 'PENDING'
			RETURNING r.id, o.attempt, r.cycle, o.kind, o.message, o.stack, o.instance, r.started_at
		), failed AS (
			INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, stack, instance, started_at)
			SELECT id, attempt, cycle, kind, message, stack, instance, started_at FROM ended WHERE kind IS NOT NULL
		)
		SELECT id AS runid, instance, attempt FROM ended`), ids, instances, attempts, statuses, delays, refunds, kinds, messages, stacks)
	return ended, err
}
