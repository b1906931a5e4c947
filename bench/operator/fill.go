package main

import (
	"context"
	"database/sql"
	"fmt"
)

// The history: ten handlers on five topics, thirty days, a hundred thousand
// keys. 3 % of the runs have failed: of three, two in one of the three ways that each
// handler has, and one in a way of its own, which makes a hundred thousand failure
// groups. One in a thousand was discarded, and one in a thousand of the newest tenth
// waits for another attempt.
const (
	fillEvents = `
		INSERT INTO reprise.events (id, topic, key, payload, published_at)
		SELECT 'event-' || lpad(i::text, 30, '0'), 'topic-' || i % 5, 'user-' || i % 100000,
		       json_build_object('user', json_build_object('id', i % 100000, 'name', 'somebody'), 'amount', i % 977),
		       now() - interval '30 days' + i * (interval '30 days' / $3::float8)
		FROM generate_series($1::bigint, $2::bigint) i`
	fillRuns = `
		INSERT INTO reprise.handler_runs (event_id, topic, handler, key, published_at, status, attempt, tries, instance,
			started_at, finished_at, failed_at, discarded_at, due_at, error_kind, error, fingerprint)
		SELECT e.id, e.topic, e.topic || '-handler-' || h, e.key, e.published_at,
		       status, 1, 1, CASE WHEN status <> 'PENDING' THEN 'history' END, e.published_at,
		       CASE WHEN status <> 'PENDING' THEN e.published_at + interval '1 second' END,
		       CASE WHEN status = 'FAILED' THEN e.published_at + interval '1 second' END,
		       CASE WHEN status = 'DISCARDED' THEN e.published_at + interval '1 second' END,
		       CASE WHEN status = 'PENDING' THEN now() + interval '1 hour' END,
		       CASE WHEN status <> 'SUCCESS' THEN 'error' END,
		       CASE WHEN status <> 'SUCCESS' THEN 'code ' || e.i % 3 || ': cannot reach user ' || e.key END,
		       CASE WHEN status <> 'SUCCESS' THEN left(md5(CASE WHEN (i / 32 * 2 + h) % 3 = 0 THEN i || ' ' || h ELSE e.topic || h || e.i % 3 END), 16) END
		FROM (
			SELECT *, CASE
				WHEN i % 32 = 7 THEN 'FAILED'
				WHEN i % 997 = 13 THEN 'DISCARDED'
				WHEN i % 1009 = 21 AND i > $3 * 0.9 THEN 'PENDING'
				ELSE 'SUCCESS' END AS status
			FROM (SELECT i, 'event-' || lpad(i::text, 30, '0') AS id FROM generate_series($1::bigint, $2::bigint) i) n
			JOIN reprise.events e USING (id)
		) e, generate_series(1, 2) h`
	fillSubscriptions = `
		INSERT INTO reprise.subscriptions (topic, handler)
		SELECT 'topic-' || t, 'topic-' || t || '-handler-' || h FROM generate_series(0, 4) t, generate_series(1, 2) h`
)

func fill(ctx context.Context, db *sql.DB, runs int) error {
	if _, err := db.ExecContext(ctx, fillSubscriptions); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	events := runs / 2
	const step = 250_000
	for first := 1; first <= events; first += step {
		for _, statement := range []string{fillEvents, fillRuns} {
			if _, err := db.ExecContext(ctx, statement, first, min(first+step-1, events), events); err != nil {
				return fmt.Errorf("fill: %w", err)
			}
		}
	}
	if _, err := db.ExecContext(ctx, `VACUUM (ANALYZE) reprise.events, reprise.handler_runs`); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	return nil
}
