package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Outgoing is an event in the outbox: an event for a broker.
type Outgoing struct {
	ID          int64
	Event       Event // PublishedAt is when it was written into the outbox
	State       OutgoingState
	Failures    int       // failed attempts to send it
	Error       string    // of the last failed attempt to send it
	OperationID int64     // the last operation that sent it again, released or dropped it; 0 for none
	SentAt      time.Time // when it was last sent; zero for never

	// As in EventHead.
	Bytes          int64
	MetadataBytes  int64
	MetadataUnread bool
}

// OutgoingState is the state of an event in the outbox.
type OutgoingState string

// The states of an event in the outbox.
const (
	OutgoingPending OutgoingState = "PENDING" // waits for the relay
	OutgoingHeld    OutgoingState = "HELD"    // waits for an operator to release it
	OutgoingSent    OutgoingState = "SENT"    // the broker has it
	OutgoingRefused OutgoingState = "REFUSED" // the broker will never accept it as it is
	OutgoingDropped OutgoingState = "DROPPED" // an operator decided not to send it
)

// OutgoingStates returns all states.
func OutgoingStates() []OutgoingState {
	return []OutgoingState{OutgoingPending, OutgoingHeld, OutgoingSent, OutgoingRefused, OutgoingDropped}
}

// ParseOutgoingState returns the state with the name, in any case.
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

// OutboxFilter selects events in the outbox: every field that is set must match. The
// zero filter selects all events.
type OutboxFilter struct {
	IDs     []int64       `json:"ids,omitempty"`    // any of these; nil is any event, and an empty list selects none
	State   OutgoingState `json:"state,omitempty"`  // "" is any
	Unsent  bool          `json:"unsent,omitempty"` // neither sent nor dropped: PENDING, HELD or REFUSED
	Topic   string        `json:"topic,omitempty"`
	EventID string        `json:"event,omitempty"`
	Key     string        `json:"key,omitempty"`
	Since   time.Time     `json:"since,omitzero"` // written at or after this time; zero is open
	Until   time.Time     `json:"until,omitzero"` // written before this time; zero is open

	// The page. It holds at most Limit events with an id lower than Before; 0 starts at
	// the newest. A Limit of 0 is DefaultLimit; the maximum is MaxLimit.
	Before int64 `json:"-"`
	Limit  int   `json:"-"`
}

// Empty reports whether the filter selects all events. It ignores the page.
func (f OutboxFilter) Empty() bool {
	return f.IDs == nil && f.State == "" && !f.Unsent && f.Topic == "" && f.EventID == "" && f.Key == "" && f.Since.IsZero() && f.Until.IsZero()
}

// Validate reports every field that no event can match.
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

// OutboxConditions returns the conditions of the filter on rows o, without its page.
func (s *Store) OutboxConditions(f OutboxFilter) *sqldb.Conditions {
	c := &sqldb.Conditions{}
	switch {
	case f.IDs == nil:
	case len(f.IDs) == 0:
		c.And(`false`)
	default:
		values := make([]any, len(f.IDs))
		for i, id := range f.IDs {
			values[i] = id
		}
		c.And(`o.id IN (`+strings.TrimSuffix(strings.Repeat("%s,", len(values)), ",")+`)`, values...)
	}
	if f.State != "" {
		c.And(`o.state = '` + string(f.State) + `'`) // validated, and in the words of the index
	}
	if f.Unsent || f.State == OutgoingPending || f.State == OutgoingHeld || f.State == OutgoingRefused {
		c.And(`o.state IN ('PENDING', 'HELD', 'REFUSED')`) // in the words of the index
	}
	for _, named := range []struct{ column, value string }{{"topic", f.Topic}, {"event_id", f.EventID}, {"key", f.Key}} {
		if named.value != "" {
			c.And(`o.`+named.column+` = %s`, named.value)
		}
	}
	if !f.Since.IsZero() {
		c.And(`o.written_at >= %s`, s.db.Time(f.Since))
	}
	if !f.Until.IsZero() {
		c.And(`o.written_at < %s`, s.db.Time(f.Until))
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

// Outbox returns a page of the events that the filter selects in the outbox, newest
// first, without payloads and metadata.
func (s *Store) Outbox(ctx context.Context, f OutboxFilter) ([]Outgoing, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if f.Limit == 0 {
		f.Limit = DefaultLimit
	}
	c := s.OutboxConditions(f)
	if f.Before > 0 {
		c.And(`o.id < %s`, f.Before)
	}
	var rows []outgoingRow
	if err := s.db.SelectContext(ctx, &rows, s.db.Compose(
		`SELECT `+outgoingColumns+`, `+s.db.PayloadBytes(`o`)+` AS bytes
		FROM (SELECT o.id FROM reprise.outbox o WHERE `+c.Where()+` ORDER BY o.id DESC LIMIT `+c.Arg(f.Limit)+`) found
		JOIN reprise.outbox o ON o.id = found.id ORDER BY o.id DESC`), c.Args...); err != nil {
		return nil, fmt.Errorf("list the outbox: %w", err)
	}
	return outgoingOf(rows)
}

// Outgoing returns the event with the id in the outbox, without its payload, or
// ErrNotFound. Metadata is included if it has at most MaxMetadata bytes.
func (s *Store) Outgoing(ctx context.Context, id int64) (Outgoing, error) {
	var rows []outgoingRow
	size := s.db.BytesOf(`o.metadata`)
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(fmt.Sprintf(
		`SELECT `+outgoingColumns+`, `+s.db.PayloadBytes(`o`)+` AS bytes, CASE WHEN %s <= %d THEN o.metadata END AS metadata, %s AS metadata_bytes
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

// OutboxCount is the number of events of a topic in one state.
type OutboxCount struct {
	Topic  string
	State  OutgoingState
	N      int64
	Oldest time.Time // the earliest time at which one was written or, if later, sent again, released or dropped
	Error  string    // of a failed attempt to send, if there is one
}

// OutboxCounts counts the events that are PENDING, HELD or REFUSED, by topic and state.
func (s *Store) OutboxCounts(ctx context.Context) ([]OutboxCount, error) {
	return s.CountOutgoing(ctx, s.OutboxConditions(OutboxFilter{Unsent: true}))
}

// CountOutgoing counts the events that the conditions select in the outbox, by topic
// and state.
func (s *Store) CountOutgoing(ctx context.Context, c *sqldb.Conditions) ([]OutboxCount, error) {
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
		WHERE `+c.Where()+`
		GROUP BY o.topic, o.state ORDER BY o.topic, o.state`), c.Args...); err != nil {
		return nil, fmt.Errorf("count the outbox: %w", err)
	}
	counts := make([]OutboxCount, len(rows))
	for i, r := range rows {
		counts[i] = OutboxCount{Topic: r.Topic, State: r.State, N: r.N, Oldest: r.Oldest.Time, Error: r.Error}
	}
	return counts, nil
}

// RelayedBy returns the instance that is the relay; "" when there is none.
func (s *Store) RelayedBy(ctx context.Context) (instance string, err error) {
	instance, over, err := s.LastRelay(ctx)
	if over {
		instance = ""
	}
	return instance, err
}

// LastRelay returns the instance that is the relay, or was the last relay and has not
// resigned, and whether its time is over. It returns "" when there is none.
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
