package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Receive writes events that another transport delivered, unless they are
// known, and a due run of the handler for each, unless there is one. It returns
// how many runs are new. All of it is committed when it returns or, with an
// error, nothing.
//
// The events must be valid, of one Source and Unique; a few hundred make a good
// statement. Another payload under an id that its topic has already is
// ErrDuplicateID.
func (s *Store) Receive(ctx context.Context, handler string, events []Event) (fresh int64, err error) {
	if err := validName("handler", handler); err != nil {
		return 0, err
	}
	for i := range events {
		if err := events[i].Validate(); err != nil {
			return 0, err
		}
		if source := events[i].Source; source == "" || source == SourcePublish {
			return 0, fmt.Errorf("receive event %q: source %q: want the name of the subscriber that delivered it", events[i].ID, source)
		}
	}
	receive := s.receive
	if s.kind == dialect.SQLite {
		receive = s.receiveSQLite
	}
	if fresh, err = receive(ctx, handler, events); err != nil {
		return 0, fmt.Errorf("receive %d events for handler %q: %w", len(events), handler, InsertError(err))
	}
	return fresh, nil
}

func (s *Store) receive(ctx context.Context, handler string, events []Event) (fresh int64, err error) {
	_, args := postgres{}.insert(events, LeaseOnInsert{})
	sources := make(pq.StringArray, len(events))
	for i := range events {
		sources[i] = events[i].Source
	}
	rows, err := s.QueryPrepared(ctx, s.db, s.sql(`
		WITH input AS (
			SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::text[], $6::bytea[], $7::text[], $8::text[])
				WITH ORDINALITY AS e (id, topic, key, json, text, bytes, metadata, source, place)
		), event AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata, source)
			SELECT id, topic, key, CASE WHEN json THEN text::json END, CASE WHEN NOT json THEN bytes END, metadata::json, source
			FROM input
			ON CONFLICT (id, topic) DO UPDATE SET source = ('`+taken+`' || was.id)::int::text -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at, published_at)
			SELECT i.id, i.topic, $9, i.key, now(),
			       coalesce((SELECT e.published_at FROM reprise.events e WHERE e.id = i.id AND e.topic = i.topic), now())
			FROM input i
			ORDER BY i.place
			ON CONFLICT (event_id, topic, handler) DO NOTHING
			RETURNING 1
		)
		SELECT count(*) FROM run`), append(args, sources, handler)...)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := rows.Scan(&fresh); err != nil {
			return 0, err
		}
	}
	return fresh, rows.Err()
}

func (s *Store) receiveSQLite(ctx context.Context, handler string, events []Event) (fresh int64, err error) {
	err = s.inTx(ctx, func(tx *sqlx.Tx) error {
		for _, e := range events {
			c := encode(e)
			if _, err := tx.ExecContext(ctx, s.sql(`
				INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata, source)
				VALUES ($1, $2, $3, $4, $5, $6, $7)
				ON CONFLICT (id, topic) DO UPDATE SET source = NULL -- which fails
				WHERE was.payload IS NOT excluded.payload OR was.payload_bytes IS NOT excluded.payload_bytes`),
				e.ID, e.Topic, e.Key, c.textOrNull(), c.bytesOrNull(), c.metadata, e.Source); err != nil {
				return err
			}
			result, err := tx.ExecContext(ctx, s.sql(`
				INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at, published_at)
				SELECT id, topic, $3, key, now(), published_at FROM reprise.events WHERE id = $1 AND topic = $2
				ON CONFLICT (event_id, topic, handler) DO NOTHING`), e.ID, e.Topic, handler)
			if err != nil {
				return err
			}
			n, err := result.RowsAffected()
			if err != nil {
				return err
			}
			fresh += n
		}
		return nil
	})
	return fresh, err
}
