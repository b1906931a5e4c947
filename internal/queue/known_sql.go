package queue

// The statements of KnownMetadata and KnownOutgoingMetadata. Each returns ids, topics
// and metadata.
const (
	// knownMetadataPostgres reads the table events.
	//
	// $1 ids, $2 topics.
	knownMetadataPostgres = `
		SELECT e.id, e.topic, e.metadata
		FROM unnest($1::text[], $2::text[]) AS k (id, topic)
		JOIN reprise.events e ON e.id = k.id AND e.topic = k.topic`

	// knownMetadataSQLite reads the table events. A row (?, ?) is an id and a topic: see
	// sqldb.Rows.
	knownMetadataSQLite = `
		SELECT id, topic, metadata FROM reprise.events WHERE (id, topic) IN (VALUES (?, ?))`

	// knownOutgoingMetadataPostgres reads the outbox.
	//
	// $1 ids, $2 topics.
	knownOutgoingMetadataPostgres = `
		SELECT o.event_id, o.topic, o.metadata
		FROM unnest($1::text[], $2::text[]) AS k (id, topic)
		JOIN reprise.outbox o ON o.event_id = k.id AND o.topic = k.topic`

	// knownOutgoingMetadataSQLite reads the outbox. A row (?, ?) is an id and a topic:
	// see sqldb.Rows.
	knownOutgoingMetadataSQLite = `
		SELECT event_id, topic, metadata FROM reprise.outbox WHERE (event_id, topic) IN (VALUES (?, ?))`
)
