package queue

// The statements of WriteOutbox. For a known event with another payload, they fail and
// write nothing.
const (
	// writeOutboxPostgres returns one row: the number of new events, and their ids and
	// topics unless all events are new.
	//
	// $1 to $6 as in insertNewDuePostgres, $7 states.
	writeOutboxPostgres = `
		WITH written AS (
			INSERT INTO reprise.outbox AS was (event_id, topic, key, payload, payload_bytes, metadata, state)
			SELECT id, topic, coalesce(key, ''), text::json, bytes, metadata::json, state
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[])
				WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, state, place)
			ORDER BY place
			ON CONFLICT (event_id, topic) DO UPDATE SET error = reprise.id_taken(was.event_id) -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes
			RETURNING was.event_id, was.topic
		)
		SELECT n, CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(event_id) FROM written) END,
		       CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(topic) FROM written) END
		FROM (SELECT count(*) AS n FROM written) counted`

	// writeOutboxSQLite returns the ids and topics of the new events. A row (?, …) is an
	// event: see sqldb.Rows.
	writeOutboxSQLite = `
		INSERT INTO reprise.outbox AS was (event_id, topic, key, payload, payload_bytes, metadata, state)
		VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (event_id, topic) DO UPDATE SET metadata = NULL -- which fails
		WHERE was.payload IS NOT excluded.payload OR was.payload_bytes IS NOT excluded.payload_bytes
		RETURNING event_id, topic`
)
