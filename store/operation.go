package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"slices"
	"strings"
	"time"
)

// OperationKind is what an operation does to the runs that it takes up.
type OperationKind string

// The kinds of operation.
const (
	Replaying   OperationKind = "replay"   // runs them again
	Discarding  OperationKind = "discard"  // closes them without success
	Editing     OperationKind = "edit"     // closes one, whose event another one amends
	Backfilling OperationKind = "backfill" // creates them, for past events

	// What is done to the outbox, and to topics: see ChangeOutbox and
	// RecordPublishing.
	Sending    OperationKind = "send"    // sends again
	Releasing  OperationKind = "release" // sends what was held
	Dropping   OperationKind = "drop"    // sends never
	Publishing OperationKind = "publish" // publishes by hand
)

// OperationState is where an operation stands; what its runs have come to is
// its Progress.
type OperationState string

// The states of an operation.
const (
	Running   OperationState = "running"   // or over, when nothing is left
	Paused    OperationState = "paused"    // what waited then waits on
	Cancelled OperationState = "cancelled" // what waited then is put back
	Undone    OperationState = "undone"    // all is put back that nothing else had happened to
)

// Operation is somebody's request on record: who wants what done to which runs.
// Whoever asked takes the runs up, batch by batch (Take); others can tell how
// far that is, and go on with it.
type Operation struct {
	ID             int64
	Kind           OperationKind
	State          OperationState
	RequestedBy    string
	Reason         string
	Selection      Filter       // for a backfill: Handler, Topic, Since and Until; for events published by hand: Topic
	Outbox         OutboxFilter // for what is done to the outbox, instead
	EvenSuccessful bool         // a replay takes up runs that succeeded, too
	Rate           float64      // runs that become due in a second; 0 is all at once
	Total          Count        // selected when it was asked for
	Taken          int64        // taken up so far
	Complete       bool         // everything that is selected is taken up
	RequestedAt    time.Time

	cursor cursor
}

// cursor is how far an operation has come.
type cursor struct {
	Run  int64 `json:"run,omitempty"`   // all selected runs up to it are taken up
	UpTo int64 `json:"up_to,omitempty"` // the last run that there was
	// A backfill: all events up to this one, by time and id, of those before
	// Until.
	At    time.Time `json:"at,omitzero"`
	Event string    `json:"event,omitempty"`
	Until time.Time `json:"until,omitzero"`
}

var errNoRequester = errors.New("it does not say who asks for it: set RequestedBy")

// onOutbox says whether what it selects is in the outbox.
func (k OperationKind) onOutbox() bool { return k == Sending || k == Releasing || k == Dropping }

// Validate reports every field that a request must not have.
func (o Operation) Validate() error {
	var errs []error
	if strings.TrimSpace(o.RequestedBy) == "" {
		errs = append(errs, errNoRequester)
	}
	if !(o.Rate >= 0 && o.Rate <= maxRate) {
		errs = append(errs, fmt.Errorf("rate %v: want runs per second up to %d, or 0 for all at once", o.Rate, maxRate))
	}
	if err := o.Selection.Validate(); err != nil {
		errs = append(errs, err)
	}
	status, kind := o.Selection.Status, o.Kind
	switch {
	case kind == Replaying && o.EvenSuccessful && (status == "" || status == Failed || status == Success || status == Discarded):
	case kind == Replaying && (status == "" || status == Failed || status == Discarded):
	case kind == Replaying && status == Success:
		errs = append(errs, errors.New("replay runs of status SUCCESS: only on request, EvenSuccessful (--even-successful)"))
	case kind == Replaying:
		errs = append(errs, fmt.Errorf("replay runs of status %.255s: want %s, %s, or by EvenSuccessful %s", status, Failed, Discarded, Success))
	case kind == Discarding && (status == "" || status == Failed || status == Pending):
	case kind == Discarding:
		errs = append(errs, fmt.Errorf("discard runs of status %.255s: want %s, or %s of what waits", status, Failed, Pending))
	case kind != Editing && kind != Backfilling:
		errs = append(errs, fmt.Errorf("operation %.255q: want %s, %s, %s or %s", kind, Replaying, Discarding, Editing, Backfilling))
	}
	if len(errs) > 0 {
		return fmt.Errorf("%.255s: %w", o.Kind, errors.Join(errs...))
	}
	return nil
}

const maxRate = 1_000_000

// takes returns the conditions of the runs that the operation takes up.
func (s *Store) takes(o Operation, above, below int64) *conditions {
	f := o.Selection
	open := f.Status == ""
	if open && !o.EvenSuccessful {
		f.Status = Failed
	}
	c := s.conditions(f, above, below)
	switch {
	case open && o.EvenSuccessful:
		c.and(`r.status IN ('FAILED', 'SUCCESS')`)
	case f.Status == Pending:
		c.and(`r.due_at IS NOT NULL`) // nobody holds it
	}
	return c
}

// Request puts an operation on record and returns it with ID, Total and
// RequestedAt filled in. Nothing is taken up yet.
//
// A replay whose selection includes a run of a handler without a subscription
// is refused whole: nobody would claim the run.
func (s *Store) Request(ctx context.Context, o Operation) (Operation, error) {
	if err := o.Validate(); err != nil {
		return o, err
	}
	fail := func(err error) (Operation, error) { return o, fmt.Errorf("request a %s: %w", o.Kind, err) }
	if err := s.db.GetContext(ctx, &o.cursor.UpTo, s.db.SQL(`SELECT coalesce(max(id), 0) FROM reprise.handler_runs`)); err != nil {
		return fail(err)
	}
	selected, err := s.selected(ctx, o)
	if err != nil {
		return fail(err)
	}
	var unserved []string
	for _, part := range selected {
		o.Total.N += part.Runs
		if o.Kind == Replaying && !part.Subscribed {
			unserved = append(unserved, part.Handler)
		}
	}
	o.Total.More = o.Total.N == totalCount
	if len(unserved) > 0 {
		return o, fmt.Errorf("no subscription for handler %s: register it with the bus, or select other handlers; nothing was replayed",
			strings.Join(slices.Compact(unserved), ", "))
	}
	if o, err = s.request(ctx, s.db.Pool(), o); err != nil {
		return fail(err)
	}
	return o, nil
}

// totalCount is how far the runs of an operation are counted.
const totalCount = 1_000_000

// request inserts the operation's row.
func (s *Store) request(ctx context.Context, q sqldb.Queryer, o Operation) (Operation, error) {
	selected := any(o.Selection)
	if o.Kind.onOutbox() {
		selected = o.Outbox
	}
	selection, err := json.Marshal(selected)
	if err != nil {
		return o, err
	}
	o.State, o.Complete = Running, false
	o.RequestedBy, o.Reason = printable(o.RequestedBy, maxName), printable(o.Reason, maxMessage)
	var requested sqldb.Time
	err = s.db.QueryRow(ctx, q, s.db.SQL(`
		INSERT INTO reprise.operations (kind, requested_by, reason, selection, even_successful, rate, total, cursor)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		RETURNING id, requested_at`),
		[]any{string(o.Kind), o.RequestedBy, o.Reason, string(selection), o.EvenSuccessful, o.Rate, o.Total.N, o.cursor.text()},
		&o.ID, &requested)
	if err != nil {
		return o, rowError(err)
	}
	o.RequestedAt = requested.Time
	return o, nil
}

func (c cursor) text() string {
	text, _ := json.Marshal(c) // numbers and strings: it always marshals
	return string(text)
}

// part is how many of the selected runs are of a handler.
type part struct {
	Handler    string
	Runs       int64
	Subscribed bool
}

// selected counts the runs that the operation is about to take up, by topic and
// handler.
func (s *Store) selected(ctx context.Context, o Operation) (parts []part, err error) {
	c := s.takes(o, 0, o.cursor.UpTo+1)
	err = s.db.SelectContext(ctx, &parts, s.db.Compose(fmt.Sprintf(`
		SELECT g.handler, g.runs,
		       EXISTS (SELECT 1 FROM reprise.subscriptions s WHERE s.topic = g.topic AND s.handler = g.handler) AS subscribed
		FROM (
			SELECT r.topic, r.handler, count(*) AS runs
			FROM (SELECT * FROM reprise.handler_runs r WHERE %s LIMIT %d) r
			GROUP BY r.topic, r.handler
		) g
		ORDER BY g.handler`, c.where(), totalCount)), c.args...)
	return parts, err
}

const operationColumns = `id, kind, state, requested_by, reason, selection, even_successful, rate, total, taken, cursor, complete, requested_at`

type operationRow struct {
	ID             int64          `db:"id"`
	Kind           OperationKind  `db:"kind"`
	State          OperationState `db:"state"`
	RequestedBy    string         `db:"requested_by"`
	Reason         string         `db:"reason"`
	Selection      []byte         `db:"selection"`
	EvenSuccessful bool           `db:"even_successful"`
	Rate           float64        `db:"rate"`
	Total          int64          `db:"total"`
	Taken          int64          `db:"taken"`
	Cursor         []byte         `db:"cursor"`
	Complete       bool           `db:"complete"`
	RequestedAt    sqldb.Time     `db:"requested_at"`
}

func (r operationRow) operation() (Operation, error) {
	o := Operation{
		ID: r.ID, Kind: r.Kind, State: r.State, RequestedBy: r.RequestedBy, Reason: r.Reason,
		EvenSuccessful: r.EvenSuccessful, Rate: r.Rate, Taken: r.Taken, Complete: r.Complete,
		Total: Count{N: r.Total, More: r.Total == totalCount}, RequestedAt: r.RequestedAt.Time,
	}
	selection := any(&o.Selection)
	if o.Kind.onOutbox() {
		selection = &o.Outbox
	}
	if err := errors.Join(json.Unmarshal(r.Selection, selection), json.Unmarshal(r.Cursor, &o.cursor)); err != nil {
		return o, fmt.Errorf("operation %d: selection or cursor in the database: %w", r.ID, err)
	}
	return o, nil
}

// Operation returns an operation by its id, or ErrNotFound.
func (s *Store) Operation(ctx context.Context, id int64) (Operation, error) {
	found, err := s.operations(ctx, `SELECT `+operationColumns+` FROM reprise.operations WHERE id = $1`, id)
	if err != nil {
		return Operation{}, err
	}
	if len(found) == 0 {
		return Operation{}, fmt.Errorf("operation %d: %w", id, ErrNotFound)
	}
	return found[0], nil
}

// Operations returns the operations with an id lower than before (0 starts at
// the newest), newest first, at most limit (0 is DefaultLimit).
func (s *Store) Operations(ctx context.Context, before int64, limit int) ([]Operation, error) {
	f := Filter{Before: before, Limit: limit}
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if limit == 0 {
		limit = DefaultLimit
	}
	return s.operations(ctx, `
		SELECT `+operationColumns+` FROM reprise.operations WHERE CAST($1 AS bigint) = 0 OR id < $1 ORDER BY id DESC LIMIT $2`, before, limit)
}

// OpenOperations returns the operations on runs that are paused, and those that have
// not taken up everything yet, however old, newest first: at most MaxLimit.
func (s *Store) OpenOperations(ctx context.Context) ([]Operation, error) {
	return s.operations(ctx, `
		SELECT `+operationColumns+` FROM reprise.operations
		WHERE kind IN ('replay', 'discard', 'edit', 'backfill') AND (state = 'paused' OR state = 'running' AND NOT complete) ORDER BY id DESC LIMIT $1`, MaxLimit)
}

// OperationsOf returns the operations that took a run up or made it, oldest
// first; none for an unknown run.
func (s *Store) OperationsOf(ctx context.Context, runID int64) ([]Operation, error) {
	return s.operations(ctx, `
		SELECT `+operationColumns+` FROM reprise.operations
		WHERE id IN (
			SELECT operation_id FROM reprise.operation_runs WHERE run_id = $1
			UNION SELECT replay_id FROM reprise.handler_runs WHERE id = $1)
		ORDER BY id`, runID)
}

func (s *Store) operations(ctx context.Context, query string, args ...any) ([]Operation, error) {
	var rows []operationRow
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(query), args...); err != nil {
		return nil, fmt.Errorf("read operations: %w", err)
	}
	operations := make([]Operation, len(rows))
	for i, r := range rows {
		var err error
		if operations[i], err = r.operation(); err != nil {
			return nil, err
		}
	}
	return operations, nil
}
