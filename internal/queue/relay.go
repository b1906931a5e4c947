package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Relay makes the instance the relay, the one process that sends from the outbox, or
// extends its time. The time is ttl from now, by the database's clock. Relay reports
// whether the instance is the relay.
func (q *Queue) Relay(ctx context.Context, instance string, ttl time.Duration) (bool, error) {
	if err := sqldb.ValidName("instance", instance); err != nil {
		return false, fmt.Errorf("become the relay: %w", err)
	}
	var is bool
	err := q.db.QueryRow(ctx, q.db.Pool(), q.db.SQL(`
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

// ResignRelay ends the instance's time as the relay, so that another instance can
// become the relay at once.
func (q *Queue) ResignRelay(ctx context.Context, instance string) error {
	if !sqldb.Keepable(instance) {
		return nil
	}
	if _, err := q.db.ExecContext(ctx, q.db.SQL(`DELETE FROM reprise.relay WHERE instance = $1`), instance); err != nil {
		return fmt.Errorf("resign as the relay: %w", err)
	}
	return nil
}

// WaitingTopics returns the topics that have PENDING events in the outbox.
func (q *Queue) WaitingTopics(ctx context.Context) (topics []string, err error) {
	// The query steps from topic to topic: each may have a million events.
	if err := q.db.SelectContext(ctx, &topics, q.db.SQL(`
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

// waitingOf selects the PENDING events of topic $1, the oldest first. Only the index
// outbox_pending has this order. With topic = $1, PostgreSQL may instead read all
// unsent events in the order of their ids to find those of the topic.
const waitingOf = `state = 'PENDING' AND (topic, id) > ($1, 0) AND topic <= $1 ORDER BY topic, id`

// Waiting reports whether the outbox has a PENDING event of the topic.
func (q *Queue) Waiting(ctx context.Context, topic string) (waiting bool, err error) {
	if !sqldb.Keepable(topic) {
		return false, nil
	}
	if err := q.db.GetContext(ctx, &waiting, q.db.SQL(`
		SELECT count(*) > 0 FROM (SELECT 1 FROM reprise.outbox WHERE `+waitingOf+` LIMIT 1) o`), topic); err != nil {
		return false, fmt.Errorf("look into the outbox: %w", err)
	}
	return waiting, nil
}

// Backlog counts the PENDING events of a topic in the outbox, up to most. It reports
// whether an attempt to send one of them has failed.
func (q *Queue) Backlog(ctx context.Context, topic string, most int) (n int, failing bool, err error) {
	if !sqldb.Keepable(topic) {
		return 0, false, nil
	}
	var found struct {
		N       int  `db:"n"`
		Failing bool `db:"failing"`
	}
	if err := q.db.GetContext(ctx, &found, q.db.SQL(`
		SELECT count(*) AS n, coalesce(max(failures), 0) > 0 AS failing
		FROM (SELECT failures FROM reprise.outbox WHERE `+waitingOf+` LIMIT $2) o`), topic, most); err != nil {
		return 0, false, fmt.Errorf("look into the outbox: %w", err)
	}
	return found.N, found.Failing, nil
}

// NextOutgoing returns the oldest PENDING events of the topic, with metadata and
// payloads: at most limit events, and at most size bytes of payload in all. The first
// event is returned whatever its size.
func (q *Queue) NextOutgoing(ctx context.Context, topic string, limit, size int) ([]store.Outgoing, error) {
	if !sqldb.Keepable(topic) {
		return nil, nil
	}
	var rows []struct {
		OutgoingID int64      `db:"id"`
		Failures   int        `db:"failures"`
		Error      string     `db:"error"`
		Operation  int64      `db:"operation_id"`
		SentAt     sqldb.Time `db:"sent_at"`
		Size       int64      `db:"bytes"`
		sqldb.EventRow
	}
	if err := q.db.SelectContext(ctx, &rows, q.db.SQL(`
		SELECT o.id, o.event_id, o.topic, o.key, o.payload, o.payload_bytes, o.metadata, 'publish' AS source, '' AS amends, o.written_at AS published_at,
		       o.failures, coalesce(o.error, '') AS error, coalesce(o.operation_id, 0) AS operation_id, o.sent_at, n.bytes
		FROM reprise.outbox o
		JOIN (
			SELECT id, bytes, sum(bytes) OVER (ORDER BY id) AS total, row_number() OVER (ORDER BY id) AS place
			FROM (SELECT id, `+q.db.PayloadBytes(`outbox`)+` AS bytes FROM reprise.outbox AS outbox WHERE `+waitingOf+` LIMIT $2) n
		) n ON n.id = o.id
		WHERE n.total <= $3 OR n.place = 1
		ORDER BY o.id`), topic, limit, size); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	next := make([]store.Outgoing, len(rows))
	for i, r := range rows {
		event, err := store.EventOf(r.EventRow)
		if err != nil {
			return nil, err
		}
		next[i] = store.Outgoing{
			ID: r.OutgoingID, Event: event, State: store.OutgoingPending, Failures: r.Failures, Error: r.Error, OperationID: r.Operation,
			SentAt: r.SentAt.Time, Bytes: r.Size, MetadataBytes: int64(len(r.Metadata)),
		}
	}
	return next, nil
}

// Sent marks events in the outbox as sent. It does not wait: an event that another
// transaction has locked stays unchanged, for a later call.
func (q *Queue) Sent(ctx context.Context, ids []int64) error {
	return q.markOutgoing(ctx, ids, `('PENDING', 'DROPPED')`, `state = 'SENT', sent_at = now(), error = NULL`)
}

// RefusedByBroker marks an event in the outbox as one that the broker will never accept
// as it is, unless another transaction has locked the event.
func (q *Queue) RefusedByBroker(ctx context.Context, id int64, cause string) error {
	return q.markOutgoing(ctx, []int64{id}, `('PENDING')`, `state = 'REFUSED', failures = failures + 1, error = $1`, sqldb.Printable(cause, sqldb.MaxMessage))
}

// SendingFailed stores why sending an event failed, unless another transaction has
// locked the event. The event stays PENDING.
func (q *Queue) SendingFailed(ctx context.Context, id int64, cause string) error {
	return q.markOutgoing(ctx, []int64{id}, `('PENDING')`, `failures = failures + 1, error = $1`, sqldb.Printable(cause, sqldb.MaxMessage))
}

func (q *Queue) markOutgoing(ctx context.Context, ids []int64, states, set string, args ...any) error {
	if len(ids) == 0 {
		return nil
	}
	list, _ := json.Marshal(ids) // numbers always marshal
	args = append(args, string(list))
	marked := fmt.Sprintf(`SELECT value FROM json_each($%d)`, len(args))
	if q.db.Kind() == dialect.Postgres {
		marked = fmt.Sprintf(`SELECT value::bigint FROM json_array_elements_text($%d::json)`, len(args))
	}
	if _, err := q.db.ExecContext(ctx, q.db.Compose(`
		UPDATE reprise.outbox SET `+set+`
		WHERE id IN (
			SELECT id FROM reprise.outbox WHERE state IN `+states+` AND id IN (`+marked+`) FOR UPDATE SKIP LOCKED
		)`), args...); err != nil {
		return fmt.Errorf("mark what was sent of the outbox: %w", err)
	}
	return nil
}
