package queue

// The statements with which PostgreSQL publishes. Each is complete and can be pasted
// into psql. Every publisher executes them, so that each variant leaves out what it
// does not need: the lease, and the lookup of known events. A single event has
// statements of its own, because an array takes the database 50% longer.
//
// For a known event with another payload, the statements fail by reprise.id_taken with
// the SQLSTATE idTaken. Nothing is written, and the error quotes no row, unlike the
// error of a violated constraint.
//
// The statements that look up known events insert the events in the order of
// EventID.Compare, whatever the order of publishing: two transactions with the same
// events wait for each other instead of deadlocking. Runs are created in the order of
// publishing, after all events of the statement. A lease locks the instance's row, so
// that no process forgets the instance before the leases are committed.
//
// Each row that the statements for several events return contains: the number of new
// events; the new events, unless all are new; the number of runs of one handler and, if
// these are leased, their ids and events in the same order; and the time of publishing,
// at which the leased runs started, too.
const (
	// insertOneNewPostgres writes one new event. It returns a row for each run, or one row
	// without a run: whether the event was written, the run, its handler, whether it is
	// leased, and when.
	//
	// $1 handlers with a reserved slot, $2 instance, $3 id, $4 topic, $5 key, $6
	// payload as text, $7 payload as bytes, $8 metadata.
	insertOneNewPostgres = `
		WITH known AS (
			SELECT id FROM reprise.instances WHERE id = $2 FOR KEY SHARE
		), published AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
			VALUES ($3::text, $4::text, $5::text, $6::text::json, $7::bytea, $8::text::json)
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
		SELECT EXISTS (SELECT FROM published), r.id, r.handler, r.instance IS NOT NULL, now()
		FROM (SELECT) one LEFT JOIN run r ON true`

	// insertOneAnyPostgres is insertOneNewPostgres for an event that may be known.
	insertOneAnyPostgres = `
		WITH known AS (
			SELECT id FROM reprise.instances WHERE id = $2 FOR KEY SHARE
		), published AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
			VALUES ($3::text, $4::text, $5::text, $6::text::json, $7::bytea, $8::text::json)
			ON CONFLICT (id, topic) DO UPDATE SET source = reprise.id_taken(was.id) -- which fails
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
		SELECT EXISTS (SELECT FROM published), r.id, r.handler, r.instance IS NOT NULL, now()
		FROM (SELECT) one LEFT JOIN run r ON true`

	// insertNewDuePostgres writes new events with due runs.
	//
	// $1 ids, $2 topics, $3 keys, $4 payloads as texts, $5 payloads as bytes, $6
	// metadata.
	insertNewDuePostgres = `
		WITH placed AS (
			SELECT id, topic, coalesce(key, '') AS key, text, bytes, metadata, place
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[]) WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, place)
		), published AS (
			INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata)
			SELECT id, topic, key, text::json, bytes, metadata::json FROM placed
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at)
			SELECT p.id, p.topic, s.handler, p.key, now()
			FROM placed p JOIN reprise.subscriptions s ON s.topic = p.topic
			ORDER BY p.place
			RETURNING 1
		)
		SELECT cardinality($1::text[]), NULL, NULL, NULL, NULL, (SELECT count(*) FROM run), NULL, NULL, now()`

	// insertNewLeasedPostgres is insertNewDuePostgres with leases: for each handler, the
	// runs of the events up to a place.
	//
	// $7 instance, $8 topics, $9 handlers, $10 places.
	insertNewLeasedPostgres = `
		WITH placed AS (
			SELECT id, topic, coalesce(key, '') AS key, text, bytes, metadata, place
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[]) WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, place)
		), published AS (
			INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata)
			SELECT id, topic, key, text::json, bytes, metadata::json FROM placed
		), known AS (
			SELECT id FROM reprise.instances WHERE id = $7 FOR KEY SHARE
		), lease AS (
			SELECT l.topic, l.handler, l.n
			FROM unnest($8::text[], $9::text[], $10::bigint[]) AS l (topic, handler, n), known
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, tries, instance, due_at, started_at)
			SELECT p.id, p.topic, s.handler, p.key,
			       (l.n IS NOT NULL)::int, (l.n IS NOT NULL)::int,
			       CASE WHEN l.n IS NOT NULL THEN $7 END,
			       CASE WHEN l.n IS NULL THEN now() END,
			       CASE WHEN l.n IS NOT NULL THEN now() END
			FROM placed p
			JOIN reprise.subscriptions s ON s.topic = p.topic
			LEFT JOIN lease l ON l.topic = s.topic AND l.handler = s.handler AND p.place <= l.n
			ORDER BY p.place
			RETURNING id, event_id, topic, handler, instance
		)
		SELECT cardinality($1::text[]), NULL, NULL, r.*, now() FROM (SELECT) one LEFT JOIN (
			SELECT topic, handler, count(*),
			       array_agg(id) FILTER (WHERE instance IS NOT NULL), array_agg(event_id) FILTER (WHERE instance IS NOT NULL)
			FROM run GROUP BY topic, handler, instance IS NULL) r ON true`

	// insertAnyDuePostgres is insertNewDuePostgres for events that may be known.
	insertAnyDuePostgres = `
		WITH input AS (
			SELECT id, topic, coalesce(key, '') AS key, text, bytes, metadata, place
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[]) WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, place)
		), published AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
			SELECT id, topic, key, text::json, bytes, metadata::json FROM input
			ORDER BY topic COLLATE "C", id COLLATE "C"
			ON CONFLICT (id, topic) DO UPDATE SET source = reprise.id_taken(was.id) -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes
			RETURNING was.id, was.topic
		), placed AS (
			SELECT i.id, i.topic, i.key, i.place FROM published p JOIN input i ON i.id = p.id AND i.topic = p.topic
		), fresh AS (
			SELECT n, CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(id ORDER BY place) FROM placed) END AS ids,
			       CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(topic ORDER BY place) FROM placed) END AS topics
			FROM (SELECT count(*) AS n FROM published) counted
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at)
			SELECT p.id, p.topic, s.handler, p.key, now()
			FROM placed p JOIN reprise.subscriptions s ON s.topic = p.topic
			ORDER BY p.place
			RETURNING 1
		)
		SELECT f.*, NULL, NULL, (SELECT count(*) FROM run), NULL, NULL, now() FROM fresh f`

	// insertAnyLeasedPostgres is insertNewLeasedPostgres for events that may be known. $10
	// are numbers of new events.
	insertAnyLeasedPostgres = `
		WITH input AS (
			SELECT id, topic, coalesce(key, '') AS key, text, bytes, metadata, place
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[]) WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, place)
		), published AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
			SELECT id, topic, key, text::json, bytes, metadata::json FROM input
			ORDER BY topic COLLATE "C", id COLLATE "C"
			ON CONFLICT (id, topic) DO UPDATE SET source = reprise.id_taken(was.id) -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes
			RETURNING was.id, was.topic
		), placed AS (
			SELECT i.id, i.topic, i.key, i.place FROM published p JOIN input i ON i.id = p.id AND i.topic = p.topic
		), fresh AS (
			SELECT n, CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(id ORDER BY place) FROM placed) END AS ids,
			       CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(topic ORDER BY place) FROM placed) END AS topics
			FROM (SELECT count(*) AS n FROM published) counted
		), known AS (
			SELECT id FROM reprise.instances WHERE id = $7 FOR KEY SHARE
		), lease AS (
			SELECT l.topic, l.handler, l.n
			FROM unnest($8::text[], $9::text[], $10::bigint[]) AS l (topic, handler, n), known
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, tries, instance, due_at, started_at)
			SELECT p.id, p.topic, s.handler, p.key,
			       (l.n IS NOT NULL)::int, (l.n IS NOT NULL)::int,
			       CASE WHEN l.n IS NOT NULL THEN $7 END,
			       CASE WHEN l.n IS NULL THEN now() END,
			       CASE WHEN l.n IS NOT NULL THEN now() END
			FROM (SELECT *, row_number() OVER (PARTITION BY topic ORDER BY place) AS nth FROM placed) p
			JOIN reprise.subscriptions s ON s.topic = p.topic
			LEFT JOIN lease l ON l.topic = s.topic AND l.handler = s.handler AND p.nth <= l.n
			ORDER BY p.place
			RETURNING id, event_id, topic, handler, instance
		)
		SELECT f.*, r.*, now() FROM fresh f LEFT JOIN (
			SELECT topic, handler, count(*),
			       array_agg(id) FILTER (WHERE instance IS NOT NULL), array_agg(event_id) FILTER (WHERE instance IS NOT NULL)
			FROM run GROUP BY topic, handler, instance IS NULL) r ON true`

	// insertEventsPostgres writes the events of a large publish, without runs:
	// insertRunsPostgres creates them. It returns the ids and topics of the new events.
	// Its third column, whether the topic has a subscription, is always true:
	// insertRunsPostgres finds that out. The parameters are those of insertNewDuePostgres.
	insertEventsPostgres = `
		INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
		SELECT id, topic, coalesce(key, ''), text::json, bytes, metadata::json
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[]) AS e (id, topic, key, text, bytes, metadata)
			ORDER BY topic COLLATE "C", id COLLATE "C"
			ON CONFLICT (id, topic) DO UPDATE SET source = reprise.id_taken(was.id) -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes
		RETURNING was.id, was.topic, true`

	// insertRunsPostgres creates the runs of new events, in the order of the events, and
	// returns their number.
	//
	// $1 ids, $2 topics, $3 keys.
	insertRunsPostgres = `
		WITH run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at)
			SELECT e.id, e.topic, s.handler, e.key, now()
			FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS e (id, topic, key, place)
			JOIN reprise.subscriptions s ON s.topic = e.topic
			ORDER BY e.place
			RETURNING 1
		)
		SELECT count(*) FROM run`
)

// insertSQLite writes events; a trigger creates their runs (see migrations). A row
// (?, …) is an event: see sqldb.Rows. For a known event with another payload the
// statement fails. It returns the ids and topics of the new events, and whether the
// topic has a subscription.
const insertSQLite = `
	INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
	VALUES (?, ?, ?, ?, ?, ?)
	ON CONFLICT (id, topic) DO UPDATE SET source = NULL -- which fails
	WHERE was.payload IS NOT excluded.payload OR was.payload_bytes IS NOT excluded.payload_bytes
	RETURNING id, topic, topic IN (SELECT s.topic FROM reprise.subscriptions s)`
