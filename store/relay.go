package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Relay makes the instance the one that sends what is in the outbox, or lets it
// go on being that, for so long by the database's clock, and says whether it is.
func (s *Store) Relay(ctx context.Context, instance string, ttl time.Duration) (bool, error) {
	if err := validName("instance", instance); err != nil {
		return false, fmt.Errorf("become the relay: %w", err)
	}
	var is bool
	err := s.db.QueryRow(ctx, s.db.Pool(), s.db.SQL(`
		INSERT INTO reprise.relay AS r (one, instance, until) VALUES (true, $1, now($2))
		ON CONFLICT (one) DO UPDATE SET instance = excluded.instance, until = excluded.until
		WHERE r.instance = excluded.instance OR r.until < now()
		RETURNING true`), []any{instance, ttl.Seconds()}, &is)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("become the relay: %w", err)
	}
	return is, nil
}

// ResignRelay lets another instance be the relay at once.
func (s *Store) ResignRelay(ctx context.Context, instance string) error {
	if !keepable(instance) {
		return nil
	}
	if _, err := s.db.ExecContext(ctx, s.db.SQL(`DELETE FROM reprise.relay WHERE instance = $1`), instance); err != nil {
		return fmt.Errorf("resign as the relay: %w", err)
	}
	return nil
}

// RelayedBy returns the instance that is the relay, "" when there is none.
func (s *Store) RelayedBy(ctx context.Context) (instance string, err error) {
	instance, over, err := s.LastRelay(ctx)
	if over {
		instance = ""
	}
	return instance, err
}

// LastRelay returns the instance that is the relay, or was it last and has not
// resigned, and whether its time is over; "" when there is none.
func (s *Store) LastRelay(ctx context.Context) (instance string, over bool, err error) {
	var last struct {
		Instance string `db:"instance"`
		Over     bool   `db:"over"`
	}
	err = s.db.GetContext(ctx, &last, s.db.SQL(`SELECT instance, until < now() AS over FROM reprise.relay`))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", false, fmt.Errorf("look for the relay: %w", err)
	}
	return last.Instance, last.Over, nil
}

// WaitingTopics returns the topics of which something is PENDING in the outbox.
func (s *Store) WaitingTopics(ctx context.Context) (topics []string, err error) {
	// From one topic to the next: there may be a million messages of each.
	if err := s.db.SelectContext(ctx, &topics, s.db.SQL(`
		WITH RECURSIVE waiting AS (
			SELECT min(topic) AS topic FROM reprise.outbox WHERE state = 'PENDING'
			UNION ALL
			SELECT (SELECT min(o.topic) FROM reprise.outbox o WHERE o.state = 'PENDING' AND o.topic > w.topic)
			FROM waiting w WHERE w.topic IS NOT NULL
		)
		SELECT topic FROM waiting WHERE topic IS NOT NULL`)); err != nil {
		return nil, fmt.Errorf("look into the outbox: %w", err)
	}
	return topics, nil
}

// waitingOf selects what is PENDING of the topic $1, the oldest first. Only the
// index outbox_pending has that order: with topic = $1, PostgreSQL may read all
// that is unsent in the order of its ids, to find what is of the topic.
const waitingOf = `state = 'PENDING' AND (topic, id) > ($1, 0) AND topic <= $1 ORDER BY topic, id`

// Waiting says whether something of the topic is PENDING in the outbox.
func (s *Store) Waiting(ctx context.Context, topic string) (waiting bool, err error) {
	if !keepable(topic) {
		return false, nil
	}
	if err := s.db.GetContext(ctx, &waiting, s.db.SQL(`
		SELECT count(*) > 0 FROM (SELECT 1 FROM reprise.outbox WHERE `+waitingOf+` LIMIT 1) o`), topic); err != nil {
		return false, fmt.Errorf("look into the outbox: %w", err)
	}
	return waiting, nil
}

// Backlog counts what is PENDING of a topic in the outbox, up to most, and says
// whether sending any of that has failed.
func (s *Store) Backlog(ctx context.Context, topic string, most int) (n int, failing bool, err error) {
	if !keepable(topic) {
		return 0, false, nil
	}
	var found struct {
		N       int  `db:"n"`
		Failing bool `db:"failing"`
	}
	if err := s.db.GetContext(ctx, &found, s.db.SQL(`
		SELECT count(*) AS n, coalesce(max(failures), 0) > 0 AS failing
		FROM (SELECT failures FROM reprise.outbox WHERE `+waitingOf+` LIMIT $2) o`), topic, most); err != nil {
		return 0, false, fmt.Errorf("look into the outbox: %w", err)
	}
	return found.N, found.Failing, nil
}

// NextOutgoing returns the oldest events of the topic that are PENDING, with
// their metadata and payloads, at most limit of them and, but for the first, as
// many as are together below size bytes of payload.
func (s *Store) NextOutgoing(ctx context.Context, topic string, limit, size int) ([]Outgoing, error) {
	if !keepable(topic) {
		return nil, nil
	}
	var rows []outgoingRow
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`
		SELECT `+outgoingColumns+`, o.payload, o.payload_bytes, o.metadata, n.bytes FROM reprise.outbox o
		JOIN (
			SELECT id, bytes, sum(bytes) OVER (ORDER BY id) AS total, row_number() OVER (ORDER BY id) AS place
			FROM (SELECT id, `+s.payloadBytes(`outbox`)+` AS bytes FROM reprise.outbox AS outbox WHERE `+waitingOf+` LIMIT $2) n
		) n ON n.id = o.id
		WHERE n.total <= $3 OR n.place = 1
		ORDER BY o.id`), topic, limit, size); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	out, err := outgoingOf(rows)
	for i := range out {
		out[i].Event.Payload = rows[i].payload()
	}
	return out, err
}

// Sent marks events in the outbox as sent. It waits for nobody: an event that
// another transaction has locked stays as it is, for a later call.
func (s *Store) Sent(ctx context.Context, ids []int64) error {
	return s.markOutgoing(ctx, ids, `('PENDING', 'DROPPED')`, `state = 'SENT', sent_at = now(), error = NULL`)
}

// RefusedByBroker marks an event in the outbox as one that the broker will
// never take as it is, unless another transaction has locked it.
func (s *Store) RefusedByBroker(ctx context.Context, id int64, cause string) error {
	return s.markOutgoing(ctx, []int64{id}, `('PENDING')`, `state = 'REFUSED', failures = failures + 1, error = $1`, printable(cause, maxMessage))
}

// SendingFailed keeps why an event in the outbox could not be sent, unless
// another transaction has locked it; it stays PENDING.
func (s *Store) SendingFailed(ctx context.Context, id int64, cause string) error {
	return s.markOutgoing(ctx, []int64{id}, `('PENDING')`, `failures = failures + 1, error = $1`, printable(cause, maxMessage))
}

func (s *Store) markOutgoing(ctx context.Context, ids []int64, states, set string, args ...any) error {
	if len(ids) == 0 {
		return nil
	}
	c := &conditions{args: args}
	values := `SELECT value FROM json_each(%s)`
	if s.db.Kind() == dialect.Postgres {
		values = `SELECT value::bigint FROM json_array_elements_text(%s::json)`
	}
	list, _ := json.Marshal(ids) // numbers always marshal
	if _, err := s.db.ExecContext(ctx, s.db.Compose(`
		UPDATE reprise.outbox SET `+set+`
		WHERE id IN (
			SELECT id FROM reprise.outbox WHERE state IN `+states+` AND id IN (`+c.format(values, string(list))+`) FOR UPDATE SKIP LOCKED
		)`), c.args...); err != nil {
		return fmt.Errorf("mark what was sent of the outbox: %w", err)
	}
	return nil
}
