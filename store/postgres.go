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
	if len(events) == 1 {
		return insertOne, oneEvent(events[0], lease)
	}
	args := arrays(events)
	if len(lease.Wants) == 0 {
		return insertEvents + insertDue, args
	}
	leaseTopics, leaseHandlers, leaseNs := wantArrays(lease.Wants)
	return insertEvents + insertLeased, append(args, lease.Instance, leaseTopics, leaseHandlers, leaseNs)
}

// oneEvent returns the parameters of insertOne.
func oneEvent(e Event, lease LeaseOnInsert) []any {
	c := encode(e)
	handlers := make(pq.StringArray, 0, len(lease.Wants))
	for _, w := range lease.Wants {
		if w.Topic == e.Topic {
			handlers = append(handlers, w.Handler)
		}
	}
	return []any{handlers, lease.Instance, e.ID, e.Topic, e.Key, c.textOrNull(), c.bytesOrNull(), c.metadata}
}

// arrays returns the columns of events.
func arrays(events []Event) []any {
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
	return []any{ids, topics, keys, json, texts, bytes, metadata}
}

// The insert is on every publisher's way: what it does not need for a lease it
// leaves out when there is none, it says which events are new only when they are
// not simply all, and for a single one, which takes the database two thirds of
// the time then, it has a statement of its own. An event that is there already with another payload
// makes it fail: nothing is written then, and the error, unlike a violated
// constraint's, quotes no row.
const (
	insertOne = `
		WITH known AS ( -- locked, so that nobody forgets the instance before the leases are committed
			SELECT id FROM reprise.instances WHERE id = $2 FOR KEY SHARE
		), published AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
			VALUES ($3::text, $4::text, $5::text, $6::text::json, $7::bytea, $8::text::json)
			ON CONFLICT (id, topic) DO UPDATE SET source = ('` + taken + `' || was.id)::int::text -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes
			RETURNING 1
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, tries, instance, due_at, started_at)
			SELECT $3::text, $4::text, s.handler, $5::text, (k.id IS NOT NULL)::int, (k.id IS NOT NULL)::int, k.id,
			       CASE WHEN k.id IS NULL THEN now() END, CASE WHEN k.id IS NOT NULL THEN now() END
			FROM published
			CROSS JOIN reprise.subscriptions s
			LEFT JOIN known k ON s.handler = ANY ($1::text[])
			WHERE s.topic = $4
			RETURNING id, handler, instance
		)
		SELECT EXISTS (SELECT FROM published), r.id, r.handler, r.instance IS NOT NULL
		FROM (SELECT) one LEFT JOIN run r ON true`
	insertEvents = `
		WITH published AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
			SELECT id, topic, key, CASE WHEN json THEN text::json END, CASE WHEN NOT json THEN bytes END, metadata::json
			FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::text[], $6::bytea[], $7::text[])
				AS e (id, topic, key, json, text, bytes, metadata)
			ON CONFLICT (id, topic) DO UPDATE SET source = ('` + taken + `' || was.id)::int::text -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes
			RETURNING was.id, was.topic, was.key
		), fresh AS (
			SELECT count(*) AS n,
			       CASE WHEN count(*) < cardinality($1) THEN array_agg(id) END AS ids,
			       CASE WHEN count(*) < cardinality($1) THEN array_agg(topic) END AS topics
			FROM published
		), placed AS (
			SELECT *, row_number() OVER () AS place FROM published
		)`
	insertDue = `, run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at)
			SELECT p.id, p.topic, s.handler, p.key, now()
			FROM placed p JOIN reprise.subscriptions s ON s.topic = p.topic
			ORDER BY p.place
			RETURNING 1
		)
		SELECT n, ids, topics, NULL, NULL, NULL, NULL, (SELECT count(*) FROM run) FROM fresh`
	insertLeased = `, known AS ( -- locked, so that nobody forgets the instance before the leases are committed
			SELECT id FROM reprise.instances WHERE id = $8 FOR KEY SHARE
		), lease AS (
			SELECT l.topic, l.handler, l.n
			FROM unnest($9::text[], $10::text[], $11::bigint[]) AS l (topic, handler, n), known
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, tries, instance, due_at, started_at)
			SELECT p.id, p.topic, s.handler, p.key,
			       (l.n IS NOT NULL)::int, (l.n IS NOT NULL)::int,
			       CASE WHEN l.n IS NOT NULL THEN $8 END,
			       CASE WHEN l.n IS NULL THEN now() END,
			       CASE WHEN l.n IS NOT NULL THEN now() END
			FROM (SELECT *, row_number() OVER (PARTITION BY topic ORDER BY place) AS nth FROM placed) p
			JOIN reprise.subscriptions s ON s.topic = p.topic
			LEFT JOIN lease l ON l.topic = s.topic AND l.handler = s.handler AND p.nth <= l.n
			ORDER BY p.place
			RETURNING id, event_id, topic, handler, instance
		), leased AS (
			SELECT array_agg(id) AS runs, array_agg(event_id) AS events, array_agg(topic) AS topics, array_agg(handler) AS handlers
			FROM run WHERE instance IS NOT NULL
		)
		SELECT f.n, f.ids, f.topics, l.runs, l.events, l.topics, l.handlers, (SELECT count(*) FROM run WHERE instance IS NULL)
		FROM fresh f, leased l`
)

func (postgres) inserted(s *Store, rows *sql.Rows, events []Event, lease LeaseOnInsert) (in Inserted, err error) {
	if len(events) == 1 {
		return insertedOne(s, rows, events[0].EventID())
	}
	for rows.Next() {
		var (
			n                              int
			ids, topics                    pq.StringArray
			runs                           pq.Int64Array
			runIDs, runTopics, runHandlers pq.StringArray
		)
		if err := rows.Scan(&n, &ids, &topics, &runs, &runIDs, &runTopics, &runHandlers, &in.Due); err != nil {
			return in, err
		}
		in.IDs = make([]EventID, 0, n)
		if n == len(events) {
			for i := range events {
				in.IDs = append(in.IDs, events[i].EventID())
			}
		}
		for i := range ids {
			in.IDs = append(in.IDs, EventID{Topic: topics[i], ID: ids[i]})
		}
		in.Leased = make([]LeasedRun, len(runs))
		for i, run := range runs {
			s.saw(run)
			in.Leased[i] = LeasedRun{
				RunID:   run,
				Handler: runHandlers[i],
				EventID: EventID{Topic: runTopics[i], ID: runIDs[i]},
			}
		}
	}
	return in, rows.Err()
}

// insertedOne reads a row for each run, or one without a run.
func insertedOne(s *Store, rows *sql.Rows, event EventID) (in Inserted, err error) {
	for rows.Next() {
		var (
			fresh   bool
			run     sql.NullInt64
			handler sql.NullString
			leased  bool
		)
		if err := rows.Scan(&fresh, &run, &handler, &leased); err != nil {
			return in, err
		}
		if fresh && in.IDs == nil {
			in.IDs = []EventID{event}
		}
		switch {
		case leased:
			s.saw(run.Int64)
			in.Leased = append(in.Leased, LeasedRun{RunID: run.Int64, Handler: handler.String, EventID: event})
		case run.Valid:
			in.Due++
		}
	}
	return in, rows.Err()
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
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, instance, attempt, tries, started_at, published_at)
			VALUES ($1, $2, $9, $3, $10, 1, 1, now(),
			        coalesce((SELECT published_at FROM reprise.events WHERE id = $1 AND topic = $2), now()))
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
			SET status = 'PENDING', attempt = r.attempt + 1, tries = 1, instance = $4, started_at = now(), due_at = NULL, finished_at = NULL
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

func (postgres) claim(ctx context.Context, s *Store, instance string, before int64, wants []Want) ([]Claimed, error) {
	topics, handlers, ns := wantArrays(wants)
	// The planner does not know how small w.n is. An array and a lateral LIMIT
	// keep it at index scans; joins would make it read both tables whole.
	found, err := s.QueryPrepared(ctx, s.db, s.sql(`
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
			WHERE EXISTS (SELECT 1 FROM reprise.instances WHERE id = $4 AND claims = $5)
		), known AS ( -- locked, so that nobody forgets the instance before the leases are committed
			UPDATE reprise.instances
			SET claims = claims + 1, lowest_run = least(lowest_run, (SELECT min(id) FROM due))
			WHERE id = $4 AND claims = $5 AND EXISTS (SELECT 1 FROM due)
			RETURNING id
		), leased AS (
			UPDATE reprise.handler_runs r
			SET instance = $4, attempt = r.attempt + 1, tries = r.tries + 1, started_at = now(), due_at = NULL
			WHERE r.id = ANY (ARRAY(SELECT id FROM due)) AND EXISTS (SELECT 1 FROM known)
			RETURNING r.id, r.event_id, r.topic, r.handler, r.attempt, r.tries, r.cycle
		)
		SELECT l.id AS run_id, l.event_id, l.topic, l.handler, l.attempt, l.tries, l.cycle, e.id IS NULL AS lost, coalesce(e.key, '') AS key,
		       e.payload, e.payload_bytes, e.metadata, coalesce(e.source, '') AS source, e.published_at
		FROM leased l LEFT JOIN LATERAL (
			SELECT * FROM reprise.events e WHERE e.id = l.event_id AND e.topic = l.topic LIMIT 1
		) e ON true
		ORDER BY l.id`), topics, handlers, ns, instance, before)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var rows []claimedRow
	if err := sqlx.StructScan(found, &rows); err != nil {
		return nil, err
	}
	for _, r := range rows {
		s.saw(r.RunID)
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

func (postgres) succeed(ctx context.Context, s *Store, q sqlx.ExtContext, instance string, attempt int, ids pq.Int64Array) ([]Lease, error) {
	result, err := s.execPrepared(ctx, q, s.sql(`
		UPDATE reprise.handler_runs
		SET status = 'SUCCESS', finished_at = now(), error_kind = NULL, error = NULL, fingerprint = NULL
		WHERE id = ANY ($1::bigint[]) AND instance = $2 AND attempt = $3 AND status = 'PENDING'`), ids, instance, attempt)
	if err != nil {
		return nil, err
	}
	n, err := result.RowsAffected()
	if err != nil {
		return nil, err
	}
	if int(n) < len(ids) { // some leases were lost: which?
		asked := ids
		ids = nil
		if err := sqlx.SelectContext(ctx, q, &ids, s.sql(`
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

func (postgres) endOthers(ctx context.Context, s *Store, tx *sqlx.Tx, outcomes []Outcome) ([]Lease, error) {
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
	err := tx.SelectContext(ctx, &ended, s.sql(`
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

func (a failureArrays) set(i int, f *Failure) {
	if f != nil {
		a.kinds[i], a.messages[i], a.stacks[i], a.fingerprints[i] = string(f.Kind), f.Message, f.Stack, f.Fingerprint
	}
}
