package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Outgoing is an event in the outbox, which a broker is to carry.
type Outgoing struct {
	ID          int64
	Event       Event // PublishedAt is when it was written into the outbox
	State       OutgoingState
	Failures    int       // sendings that failed
	Error       string    // of the last of them
	OperationID int64     // that sent it again, released or dropped it last; 0 for none
	SentAt      time.Time // the last time; zero for never

	// As in EventHead.
	Bytes          int64
	MetadataBytes  int64
	MetadataUnread bool
}

// OutgoingState is where an event in the outbox stands.
type OutgoingState string

// The states of an event in the outbox.
const (
	OutgoingPending OutgoingState = "PENDING" // waits for the relay
	OutgoingHeld    OutgoingState = "HELD"    // waits for somebody to release it
	OutgoingSent    OutgoingState = "SENT"    // the broker has it
	OutgoingRefused OutgoingState = "REFUSED" // the broker will never take it as it is
	OutgoingDropped OutgoingState = "DROPPED" // somebody decided that it is not sent
)

// OutgoingStates returns all states.
func OutgoingStates() []OutgoingState {
	return []OutgoingState{OutgoingPending, OutgoingHeld, OutgoingSent, OutgoingRefused, OutgoingDropped}
}

// ParseOutgoingState returns the state of that name, in whatever case.
func ParseOutgoingState(name string) (OutgoingState, error) {
	var names []string
	for _, s := range OutgoingStates() {
		if strings.EqualFold(name, string(s)) {
			return s, nil
		}
		names = append(names, string(s))
	}
	return "", fmt.Errorf("state %.255q: want %s", name, strings.Join(names, ", "))
}

// WriteOutbox writes events, which must be valid and Unique, into the outbox:
// HELD where held says so for their topic, PENDING otherwise, in this order. It
// returns which were not there yet. What is there already stays as it is,
// sent or not, whatever its metadata: KnownOutgoingMetadata tells whether an event
// Repeats it. Another payload under an id that its topic has in the outbox
// makes it fail with ErrDuplicateID, and nothing is written.
//
// q is the store's pool or the caller's transaction; a few thousand events and
// a few MiB of payload make a good statement.
func (s *Store) WriteOutbox(ctx context.Context, q sqldb.Queryer, events []Event, held func(topic string) bool) (fresh []EventID, err error) {
	if len(events) == 0 {
		return nil, nil
	}
	for i := range events {
		if err := events[i].Validate(); err != nil {
			return nil, err
		}
	}
	states := make([]string, len(events))
	for i, e := range events {
		states[i] = string(OutgoingPending)
		if held(e.Topic) {
			states[i] = string(OutgoingHeld)
		}
	}
	query, args := s.outboxInsert(events, states)
	err = s.db.Query(ctx, q, query, args, func(rows *sql.Rows) error {
		fresh = make([]EventID, 0, len(events))
		for rows.Next() {
			if s.db.Kind() == dialect.SQLite {
				var id EventID
				if err := rows.Scan(&id.ID, &id.Topic); err != nil {
					return err
				}
				fresh = append(fresh, id)
				continue
			}
			var n int
			var ids, topics pq.StringArray
			if err := rows.Scan(&n, &ids, &topics); err != nil {
				return err
			}
			for i := range ids {
				fresh = append(fresh, EventID{Topic: topics[i], ID: ids[i]})
			}
			if n == len(events) {
				for i := range events {
					fresh = append(fresh, events[i].EventID())
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("write into the outbox: %w", insertError(err, false))
	}
	return fresh, nil
}

// outboxInsert returns the statement, which returns the ids and topics of the
// events that are new; on PostgreSQL in one row, after how many they are, and
// unless all are.
func (s *Store) outboxInsert(events []Event, states []string) (string, []any) {
	if s.db.Kind() == dialect.SQLite {
		args := make([]any, 0, 7*len(events))
		for i, e := range events {
			c := encode(e)
			args = append(args, e.ID, e.Topic, e.Key, c.textOrNull(), c.bytesOrNull(), c.metadata, states[i])
		}
		return s.db.Compose(`
			INSERT INTO reprise.outbox AS was (event_id, topic, key, payload, payload_bytes, metadata, state)
			VALUES ` + placeholders(len(events), 7) + `
			ON CONFLICT (event_id, topic) DO UPDATE SET metadata = NULL -- which fails
			WHERE was.payload IS NOT excluded.payload OR was.payload_bytes IS NOT excluded.payload_bytes
			RETURNING event_id, topic`), args
	}
	args := arrays(events)
	return s.db.SQL(`
		WITH written AS (
			INSERT INTO reprise.outbox AS was (event_id, topic, key, payload, payload_bytes, metadata, state)
			SELECT id, topic, coalesce(key, ''), text::json, bytes, metadata::json, state
			FROM ` + unnested + `, $7::text[])
				WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, state, place)
			ORDER BY place
			ON CONFLICT (event_id, topic) DO UPDATE SET error = reprise.id_taken(was.event_id) -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes
			RETURNING was.event_id, was.topic
		)
		SELECT n, CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(event_id) FROM written) END,
		       CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(topic) FROM written) END
		FROM (SELECT count(*) AS n FROM written) counted`), append(args, pq.StringArray(states))
}

// OutboxFilter selects events in the outbox: all of what is set must hold. The
// zero filter selects all of them.
type OutboxFilter struct {
	IDs     []int64       `json:"ids,omitempty"`    // any of these; nil is any, while an empty list selects none
	State   OutgoingState `json:"state,omitempty"`  // "" is any
	Unsent  bool          `json:"unsent,omitempty"` // what is neither sent nor dropped: PENDING, HELD or REFUSED
	Topic   string        `json:"topic,omitempty"`
	EventID string        `json:"event,omitempty"`
	Key     string        `json:"key,omitempty"`
	Since   time.Time     `json:"since,omitzero"` // written at or after; zero is open
	Until   time.Time     `json:"until,omitzero"` // written before; zero is open

	// The page: those with an id lower than Before (0 starts at the newest),
	// Limit of them (0 is DefaultLimit, at most MaxLimit).
	Before int64 `json:"-"`
	Limit  int   `json:"-"`
}

// Empty says whether the filter selects all, whatever the page.
func (f OutboxFilter) Empty() bool {
	return f.IDs == nil && f.State == "" && !f.Unsent && f.Topic == "" && f.EventID == "" && f.Key == "" && f.Since.IsZero() && f.Until.IsZero()
}

// Validate reports every field that nothing can be selected by.
func (f OutboxFilter) Validate() error {
	var errs []error
	if f.State != "" && !slices.Contains(OutgoingStates(), f.State) {
		_, err := ParseOutgoingState(string(f.State))
		errs = append(errs, err)
	}
	errs = append(errs, Filter{
		IDs: f.IDs, Topic: f.Topic, EventID: f.EventID, Key: f.Key, Since: f.Since, Until: f.Until, Before: f.Before, Limit: f.Limit,
	}.Validate())
	return errors.Join(errs...)
}

// outgoing returns the conditions of the filter, but for its page, on rows o.
func (s *Store) outgoing(f OutboxFilter) *conditions {
	c := &conditions{}
	switch {
	case f.IDs == nil:
	case len(f.IDs) == 0:
		c.and(`false`)
	default:
		values := make([]any, len(f.IDs))
		for i, id := range f.IDs {
			values[i] = id
		}
		c.and(`o.id IN (`+strings.TrimSuffix(strings.Repeat("%s,", len(values)), ",")+`)`, values...)
	}
	if f.State != "" {
		c.and(`o.state = '` + string(f.State) + `'`) // valid, and as the index has it
	}
	if f.Unsent || f.State == OutgoingPending || f.State == OutgoingHeld || f.State == OutgoingRefused {
		c.and(`o.state IN ('PENDING', 'HELD', 'REFUSED')`) // as the index has it
	}
	for _, named := range []struct{ column, value string }{{"topic", f.Topic}, {"event_id", f.EventID}, {"key", f.Key}} {
		if named.value != "" {
			c.and(`o.`+named.column+` = %s`, named.value)
		}
	}
	if !f.Since.IsZero() {
		c.and(`o.written_at >= %s`, s.time(f.Since))
	}
	if !f.Until.IsZero() {
		c.and(`o.written_at < %s`, s.time(f.Until))
	}
	return c
}

// outgoingColumns are all but payload, metadata and bytes.
const outgoingColumns = `o.id, o.event_id, o.topic, o.key, 'publish' AS source, '' AS amends,
	o.written_at AS published_at, o.state, o.failures, coalesce(o.error, '') AS error, coalesce(o.operation_id, 0) AS operation_id, o.sent_at`

type outgoingRow struct {
	OutgoingID  int64         `db:"id"`
	State       OutgoingState `db:"state"`
	Failures    int           `db:"failures"`
	Error       string        `db:"error"`
	OperationID int64         `db:"operation_id"`
	SentAt      sqldb.Time    `db:"sent_at"`
	headRow
}

func outgoingOf(rows []outgoingRow) ([]Outgoing, error) {
	out := make([]Outgoing, len(rows))
	for i, r := range rows {
		h, err := r.head()
		if err != nil {
			return nil, err
		}
		out[i] = Outgoing{
			ID: r.OutgoingID, Event: h.Event, State: r.State, Failures: r.Failures, Error: r.Error, OperationID: r.OperationID, SentAt: r.SentAt.Time,
			Bytes: h.Bytes, MetadataBytes: h.MetadataBytes, MetadataUnread: h.MetadataUnread,
		}
	}
	return out, nil
}

// Outbox returns a page of what the filter selects in the outbox, newest first,
// without payloads and metadata.
func (s *Store) Outbox(ctx context.Context, f OutboxFilter) ([]Outgoing, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if f.Limit == 0 {
		f.Limit = DefaultLimit
	}
	c := s.outgoing(f)
	if f.Before > 0 {
		c.and(`o.id < %s`, f.Before)
	}
	var rows []outgoingRow
	if err := s.db.SelectContext(ctx, &rows, s.db.Compose(
		`SELECT `+outgoingColumns+`, `+s.payloadBytes(`o`)+` AS bytes
		FROM (SELECT o.id FROM reprise.outbox o WHERE `+c.where()+` ORDER BY o.id DESC LIMIT `+c.arg(f.Limit)+`) found
		JOIN reprise.outbox o ON o.id = found.id ORDER BY o.id DESC`), c.args...); err != nil {
		return nil, fmt.Errorf("list the outbox: %w", err)
	}
	return outgoingOf(rows)
}

// Outgoing returns what has the id in the outbox, without its payload, or
// ErrNotFound; its metadata if they have no more than MaxMetadata.
func (s *Store) Outgoing(ctx context.Context, id int64) (Outgoing, error) {
	var rows []outgoingRow
	size := s.bytesOf(`o.metadata`)
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(fmt.Sprintf(
		`SELECT `+outgoingColumns+`, `+s.payloadBytes(`o`)+` AS bytes, CASE WHEN %s <= %d THEN o.metadata END AS metadata, %s AS metadata_bytes
		FROM reprise.outbox o WHERE o.id = $1`, size, MaxMetadata, size)), id); err != nil {
		return Outgoing{}, fmt.Errorf("read message %d of the outbox: %w", id, err)
	}
	if len(rows) == 0 {
		return Outgoing{}, fmt.Errorf("message %d of the outbox: %w", id, ErrNotFound)
	}
	out, err := outgoingOf(rows)
	if err != nil {
		return Outgoing{}, err
	}
	return out[0], nil
}

// OutboxCount is how many events of a topic are in one state.
type OutboxCount struct {
	Topic  string
	State  OutgoingState
	N      int64
	Oldest time.Time // written, or sent again, released or dropped since
	Error  string    // of a sending that failed, if one did
}

// OutboxCounts counts what is not sent, by topic and state: PENDING, HELD and
// REFUSED.
func (s *Store) OutboxCounts(ctx context.Context) ([]OutboxCount, error) {
	return s.countOutgoing(ctx, s.outgoing(OutboxFilter{Unsent: true}))
}

// PreviewOutbox counts what ChangeOutbox would do something to, by topic and
// state, and changes nothing.
func (s *Store) PreviewOutbox(ctx context.Context, o Operation) ([]OutboxCount, error) {
	if err := o.ValidateOutbox(); err != nil {
		return nil, err
	}
	return s.countOutgoing(ctx, s.changes(o))
}

func (s *Store) countOutgoing(ctx context.Context, c *conditions) ([]OutboxCount, error) {
	var rows []struct {
		Topic  string        `db:"topic"`
		State  OutgoingState `db:"state"`
		N      int64         `db:"n"`
		Oldest sqldb.Time    `db:"oldest"`
		Error  string        `db:"error"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.db.Compose(`
		SELECT o.topic, o.state, count(*) AS n, min(coalesce(p.requested_at, o.written_at)) AS oldest, coalesce(max(o.error), '') AS error
		FROM reprise.outbox o LEFT JOIN reprise.operations p ON p.id = o.operation_id
		WHERE `+c.where()+`
		GROUP BY o.topic, o.state ORDER BY o.topic, o.state`), c.args...); err != nil {
		return nil, fmt.Errorf("count the outbox: %w", err)
	}
	counts := make([]OutboxCount, len(rows))
	for i, r := range rows {
		counts[i] = OutboxCount{Topic: r.Topic, State: r.State, N: r.N, Oldest: r.Oldest.Time, Error: r.Error}
	}
	return counts, nil
}

// ChangeOutbox puts a request on record, of kind Sending, Releasing or
// Dropping, and does it to what its Outbox selects, in one transaction: all or,
// with an error, nothing. Without a State it is to what the kind is for.
//
//	Sending    REFUSED; or SENT, DROPPED, HELD: is PENDING, and sent again
//	Releasing  HELD: is PENDING
//	Dropping   PENDING, HELD, REFUSED: is DROPPED
//
// What a relay has in its hands at that moment may be sent all the same, and is
// SENT then.
func (s *Store) ChangeOutbox(ctx context.Context, o Operation) (Operation, error) {
	if err := o.ValidateOutbox(); err != nil {
		return o, err
	}
	_, to, _ := o.outboxChange()
	request := o
	err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		c := s.changes(request)
		asked, err := s.request(ctx, tx, request)
		if err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, s.db.Compose(fmt.Sprintf(`
			UPDATE reprise.outbox SET state = '%s', failures = 0, error = NULL, operation_id = %s
			WHERE id IN (SELECT o.id FROM reprise.outbox o WHERE %s)`, to, c.arg(asked.ID), c.where())), c.args...)
		if err != nil {
			return err
		}
		if asked.Taken, err = result.RowsAffected(); err != nil {
			return err
		}
		asked.Total, asked.Complete = Count{N: asked.Taken}, true
		o = asked
		if _, err := tx.ExecContext(ctx, s.db.SQL(`UPDATE reprise.operations SET total = $2, taken = $2, complete = true WHERE id = $1`), o.ID, o.Taken); err != nil {
			return err
		}
		return s.NotifyOutbox(ctx, tx, "")
	})
	if err != nil {
		return o, fmt.Errorf("%s what is in the outbox: %w", o.Kind, err)
	}
	return o, nil
}

// ValidateOutbox reports every field that a request to ChangeOutbox must not
// have.
func (o Operation) ValidateOutbox() error {
	if _, _, err := o.outboxChange(); err != nil {
		return fmt.Errorf("%.255s: %w", o.Kind, err)
	}
	return nil
}

// changes returns the conditions of what ChangeOutbox does something to, on
// rows o.
func (s *Store) changes(o Operation) *conditions {
	from, _, _ := o.outboxChange()
	c := s.outgoing(o.Outbox)
	c.and(`o.state IN ('` + strings.Join(from, `', '`) + `')`)
	return c
}

// outboxChange returns the states that the operation takes events from, and the
// one that it takes them to.
func (o Operation) outboxChange() (from []string, to OutgoingState, err error) {
	var usual, allowed []OutgoingState
	switch o.Kind {
	case Sending:
		usual, to = []OutgoingState{OutgoingRefused}, OutgoingPending
		allowed = []OutgoingState{OutgoingRefused, OutgoingSent, OutgoingDropped, OutgoingHeld}
	case Releasing:
		usual, to = []OutgoingState{OutgoingHeld}, OutgoingPending
		allowed = usual
	case Dropping:
		usual, to = []OutgoingState{OutgoingPending, OutgoingHeld, OutgoingRefused}, OutgoingDropped
		allowed = usual
	default:
		return nil, "", fmt.Errorf("it is not done to the outbox: want %s, %s or %s", Sending, Releasing, Dropping)
	}
	errs := []error{o.Outbox.Validate()}
	if strings.TrimSpace(o.RequestedBy) == "" {
		errs = append(errs, errNoRequester)
	}
	if state := o.Outbox.State; state != "" {
		usual = []OutgoingState{state}
		if !slices.Contains(allowed, state) {
			errs = append(errs, fmt.Errorf("what is %s: want of the states %v", state, allowed))
		}
	}
	for _, state := range usual {
		from = append(from, string(state))
	}
	return from, to, errors.Join(errs...)
}
