package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// EventHead is an event without its payload, for lists.
type EventHead struct {
	Event                // Payload is nil
	Bytes          int64 // of the payload
	MetadataBytes  int64 // of the metadata as stored
	MetadataUnread bool  // Metadata is nil: it was not asked for, or is larger than MaxMetadata
}

// MaxMetadata is the size up to which an EventHead includes the metadata, in bytes as
// stored.
const MaxMetadata = 64 << 10

// headRow is an event whose payload is not read.
type headRow struct {
	sqldb.EventRow
	Bytes         int64 `db:"bytes"`
	MetadataBytes int64 `db:"metadata_bytes"`
}

// headColumns returns the columns of event e for a headRow. Metadata is included if it
// was asked for and has at most MaxMetadata bytes.
func (s *Store) headColumns(metadata bool) string {
	size := s.db.BytesOf(`e.metadata`)
	read := `NULL`
	if metadata {
		read = fmt.Sprintf(`CASE WHEN %s <= %d THEN e.metadata END`, size, MaxMetadata)
	}
	return `e.id AS event_id, e.topic, e.key, e.source, coalesce(e.amends, '') AS amends, e.published_at, ` +
		s.db.PayloadBytes(`e`) + ` AS bytes, ` + read + ` AS metadata, ` + size + ` AS metadata_bytes`
}

func (r headRow) head() (EventHead, error) {
	e, err := EventOf(r.EventRow)
	e.Payload = nil
	return EventHead{Event: e, Bytes: r.Bytes, MetadataBytes: r.MetadataBytes, MetadataUnread: r.Metadata == nil}, err
}

func heads(rows []headRow) ([]EventHead, error) {
	all := make([]EventHead, len(rows))
	for i, r := range rows {
		var err error
		if all[i], err = r.head(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// EventHead returns the event with the id on the topic, without its payload, or
// ErrNotFound.
func (s *Store) EventHead(ctx context.Context, topic, id string) (EventHead, error) {
	if !sqldb.Keepable(topic, id) {
		return EventHead{}, fmt.Errorf("event %.255q of topic %.255q: %w", id, topic, ErrNotFound)
	}
	var row headRow
	err := s.db.GetContext(ctx, &row, s.db.SQL(`SELECT `+s.headColumns(true)+` FROM reprise.events e WHERE e.id = $1 AND e.topic = $2`), id, topic)
	if errors.Is(err, sql.ErrNoRows) {
		return EventHead{}, fmt.Errorf("event %q of topic %q: %w", id, topic, ErrNotFound)
	}
	if err != nil {
		return EventHead{}, fmt.Errorf("read event %q: %w", id, err)
	}
	return row.head()
}

// EventHeads returns the events with the id, without their payloads: one for each topic
// that has the id.
func (s *Store) EventHeads(ctx context.Context, id string) ([]EventHead, error) {
	if !sqldb.Keepable(id) {
		return nil, nil
	}
	var rows []headRow
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`SELECT `+s.headColumns(true)+` FROM reprise.events e WHERE e.id = $1 ORDER BY e.topic`), id); err != nil {
		return nil, fmt.Errorf("read event %q: %w", id, err)
	}
	return heads(rows)
}

// EventPayload returns an event's payload, cut after most bytes, or ErrNotFound. A most
// of 0 means all bytes.
func (s *Store) EventPayload(ctx context.Context, topic, id string, most int) ([]byte, error) {
	if !sqldb.Keepable(topic, id) {
		return nil, fmt.Errorf("event %.255q of topic %.255q: %w", id, topic, ErrNotFound)
	}
	piece, err := s.piece(ctx, most, `reprise.events p WHERE p.id = $2 AND p.topic = $3`, id, topic)
	if err != nil {
		return nil, fmt.Errorf("read the payload of event %q of topic %q: %w", id, topic, err)
	}
	return piece, nil
}

// OutgoingPayload is EventPayload for an event in the outbox.
func (s *Store) OutgoingPayload(ctx context.Context, id int64, most int) ([]byte, error) {
	piece, err := s.piece(ctx, most, `reprise.outbox p WHERE p.id = $2`, id)
	if err != nil {
		return nil, fmt.Errorf("read the payload of message %d: %w", id, err)
	}
	return piece, nil
}

func (s *Store) piece(ctx context.Context, most int, from string, args ...any) (piece []byte, err error) {
	if most <= 0 || most > math.MaxInt32 {
		most = math.MaxInt32
	}
	text := `convert_to(p.payload::text, 'UTF8')`
	if s.db.Kind() == dialect.SQLite {
		text = `CAST(p.payload AS BLOB)`
	}
	err = s.db.GetContext(ctx, &piece, s.db.SQL(`
		SELECT coalesce(substr(`+text+`, 1, CAST($1 AS integer)), substr(p.payload_bytes, 1, CAST($1 AS integer))) FROM `+from), append([]any{most}, args...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	return piece, err
}

// LastAttempts returns the last failed and abandoned attempts of a run, oldest first,
// and the number of attempts before them. most is the highest number of attempts to
// return. Stacks of panics are included if stacks is set.
func (s *Store) LastAttempts(ctx context.Context, runID int64, most int, stacks bool) (attempts []Attempt, before int64, err error) {
	stack := `''`
	if stacks {
		stack = `coalesce(stack, '')`
	}
	var rows []struct {
		attemptRow
		All int64 `db:"all_there_are"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`
		SELECT run_id, attempt, cycle, kind, message, `+stack+` AS stack, coalesce(instance, '') AS instance, started_at, finished_at,
		       (SELECT count(*) FROM reprise.run_attempts WHERE run_id = $1) AS all_there_are
		FROM (SELECT * FROM reprise.run_attempts WHERE run_id = $1 ORDER BY id DESC LIMIT $2) a ORDER BY id`), runID, most); err != nil {
		return nil, 0, fmt.Errorf("read the attempts of run %d: %w", runID, err)
	}
	attempts = make([]Attempt, len(rows))
	for i, r := range rows {
		attempts[i], before = r.attempt(), r.All-int64(len(rows))
	}
	return attempts, before, nil
}
