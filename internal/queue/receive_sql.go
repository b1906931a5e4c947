package queue

// The statements with which PostgreSQL receives. One INSERT creates all runs, so that
// they are in the order of the events.
//
// $1 to $6 as in insertNewDuePostgres, $7 source, $8 handler, $9 instance, $10 how many
// of the first events are leased.
const (
	// receiveNewPostgres writes new events.
	receiveNewPostgres = `
		WITH input AS (
			SELECT id, topic, coalesce(key, '') AS key, text, bytes, metadata, place
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[]) WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, place)
		), known AS (
			SELECT id FROM reprise.instances WHERE id = $9 FOR KEY SHARE
		), event AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata, source)
			SELECT id, topic, key, text::json, bytes, metadata::json, $7
			FROM input
			ORDER BY topic COLLATE "C", id COLLATE "C"
			RETURNING was.id, was.topic
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, tries, instance, due_at, started_at, published_at)
			SELECT i.id, i.topic, $8, i.key, (k.id IS NOT NULL)::int, (k.id IS NOT NULL)::int, k.id,
			       CASE WHEN k.id IS NULL THEN now() END, CASE WHEN k.id IS NOT NULL THEN now() END, now()
			FROM input i
			LEFT JOIN known k ON i.place <= $10
			WHERE (SELECT count(*) FROM event) > 0 -- is evaluated first: the events are locked in one order, then the runs
			ORDER BY i.place
			RETURNING id, event_id, topic, instance, published_at
		)
		SELECT cardinality($1::text[]) - (SELECT count(*) FROM event),
		       count(*) FILTER (WHERE instance IS NULL),
		       array_agg(id) FILTER (WHERE instance IS NOT NULL),
		       array_agg(event_id) FILTER (WHERE instance IS NOT NULL),
		       array_agg(topic) FILTER (WHERE instance IS NOT NULL),
		       now(), -- when each was published, in microseconds before now
		       array_agg(CASE WHEN published_at = now() THEN 0 ELSE (extract(epoch FROM now() - published_at) * 1000000)::bigint END)
		           FILTER (WHERE instance IS NOT NULL),
		       NULL, NULL
		FROM run`

	// receiveAnyPostgres writes events that may be known. A subquery for each known event
	// reads only that event's row, whatever size the planner assumes for the input.
	//
	// $11 ids of the events that are Declared.
	receiveAnyPostgres = `
		WITH input AS (
			SELECT id, topic, coalesce(key, '') AS key, text, bytes, metadata, place
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[]) WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, place)
		), known AS (
			SELECT id FROM reprise.instances WHERE id = $9 FOR KEY SHARE
		), event AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata, source)
			SELECT id, topic, key, text::json, bytes, metadata::json, $7
			FROM input
			ORDER BY topic COLLATE "C", id COLLATE "C"
			ON CONFLICT (id, topic) DO UPDATE SET source = reprise.id_taken(was.id) -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes
			RETURNING was.id, was.topic
		), seen AS (
			SELECT i.*, CASE WHEN e.id IS NULL AND i.id <> ALL ($11::text[]) THEN
			              (SELECT was.metadata::text FROM reprise.events was WHERE was.id = i.id AND was.topic = i.topic) END AS had,
			       CASE WHEN e.id IS NOT NULL THEN now() -- it is new
			       ELSE coalesce((SELECT was.published_at FROM reprise.events was WHERE was.id = i.id AND was.topic = i.topic), now()) END AS published_at
			FROM input i
			LEFT JOIN event e ON e.id = i.id AND e.topic = i.topic
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, tries, instance, due_at, started_at, published_at)
			SELECT i.id, i.topic, $8, i.key, (k.id IS NOT NULL)::int, (k.id IS NOT NULL)::int, k.id,
			       CASE WHEN k.id IS NULL THEN now() END, CASE WHEN k.id IS NOT NULL THEN now() END, i.published_at
			FROM seen i
			LEFT JOIN known k ON i.place <= $10
			WHERE i.had IS NULL OR i.had = i.metadata
			ORDER BY i.place
			ON CONFLICT (event_id, topic, handler) DO NOTHING
			RETURNING id, event_id, topic, instance, published_at
		)
		SELECT cardinality($1::text[]) - (SELECT count(*) FROM event),
		       count(*) FILTER (WHERE instance IS NULL),
		       array_agg(id) FILTER (WHERE instance IS NOT NULL),
		       array_agg(event_id) FILTER (WHERE instance IS NOT NULL),
		       array_agg(topic) FILTER (WHERE instance IS NOT NULL),
		       now(), -- when each was published, in microseconds before now
		       array_agg(CASE WHEN published_at = now() THEN 0 ELSE (extract(epoch FROM now() - published_at) * 1000000)::bigint END)
		           FILTER (WHERE instance IS NOT NULL),
		       (SELECT array_agg(place) FROM seen WHERE had <> metadata),
		       (SELECT array_agg(had) FROM seen WHERE had <> metadata)
		FROM run`
)

// The statements with which SQLite receives one event. $1 is its id and $2 its topic.
const (
	// receiveEventSQLite writes the event unless it is known. For a known event with
	// another payload it fails.
	//
	// $3 key, $4 payload as text, $5 payload as bytes, $6 metadata, $7 source.
	receiveEventSQLite = `
		INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata, source)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (id, topic) DO UPDATE SET source = NULL -- which fails
		WHERE was.payload IS NOT excluded.payload OR was.payload_bytes IS NOT excluded.payload_bytes`

	// receivedMetadataSQLite returns the metadata of the event.
	receivedMetadataSQLite = `SELECT metadata FROM reprise.events WHERE id = $1 AND topic = $2`

	// receiveRunSQLite creates a due run of the event, unless the handler has a run.
	//
	// $3 handler.
	receiveRunSQLite = `
		INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at, published_at)
		SELECT id, topic, $3, key, now(), published_at FROM reprise.events WHERE id = $1 AND topic = $2
		ON CONFLICT (event_id, topic, handler) DO NOTHING`
)
