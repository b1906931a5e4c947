package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// OperationKind is what an operation does to the runs that it takes up.
type OperationKind string

// The kinds of operation.
const (
	Replaying   OperationKind = "replay"   // runs them again
	Discarding  OperationKind = "discard"  // closes them without success
	Editing     OperationKind = "edit"     // closes one run; a new event amends the run's event
	Backfilling OperationKind = "backfill" // creates runs for past events

	// Operations on the outbox and on topics: see replay.ChangeOutbox and
	// replay.NewPublisher.
	Sending    OperationKind = "send"    // sends again
	Releasing  OperationKind = "release" // sends held events
	Dropping   OperationKind = "drop"    // never sends
	Publishing OperationKind = "publish" // publishes by hand
)

// OperationState is the state of an operation. What has become of its runs is its
// Progress.
type OperationState string

// The states of an operation.
const (
	Running   OperationState = "running"   // also when nothing is left to do
	Paused    OperationState = "paused"    // runs that waited stay waiting
	Cancelled OperationState = "cancelled" // runs that waited were put back
	Undone    OperationState = "undone"    // runs to which nothing else had happened were put back
)

// Operation is an operator's request on record: who wants what done to which runs, and
// why. The requester's process takes the runs up, batch by batch (replay.All); any
// other process can read how far it is, and continue it (replay.Resume).
type Operation struct {
	ID             int64
	Kind           OperationKind
	State          OperationState
	RequestedBy    string
	Reason         string
	Selection      Filter       // for a backfill: Handler, Topic, Since and Until; for events published by hand: Topic
	Outbox         OutboxFilter // instead of Selection, for an operation on the outbox
	EvenSuccessful bool         // a replay also takes up runs that succeeded
	Rate           float64      // runs that become due per second; 0 is all at once
	Total          Count        // runs selected at the time of the request
	Taken          int64        // runs taken up so far
	Complete       bool         // every selected run is taken up
	RequestedAt    time.Time
}

// HasProgress reports whether the operation's runs go on after it has taken them up.
// Their Progress says how far they are.
func (k OperationKind) HasProgress() bool { return k.OnRuns() && k != Discarding }

// OnRuns reports whether the operation works on runs.
func (k OperationKind) OnRuns() bool { return !k.OnOutbox() && k != Publishing }

// ErrNoRequester is the error of a request that names no requester.
var ErrNoRequester = errors.New("it does not say who asks for it: set RequestedBy")

// OnOutbox reports whether the operation selects events in the outbox.
func (k OperationKind) OnOutbox() bool { return k == Sending || k == Releasing || k == Dropping }

// Validate reports every field that a request must not have.
func (o Operation) Validate() error {
	var errs []error
	if strings.TrimSpace(o.RequestedBy) == "" {
		errs = append(errs, ErrNoRequester)
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

// TotalCount is the highest number to which the runs of an operation are counted.
const TotalCount = 1_000_000

const operationColumns = `id, kind, state, requested_by, reason, selection, even_successful, rate, total, taken, complete, requested_at`

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
	Complete       bool           `db:"complete"`
	RequestedAt    sqldb.Time     `db:"requested_at"`
}

func (r operationRow) operation() (Operation, error) {
	o := Operation{
		ID: r.ID, Kind: r.Kind, State: r.State, RequestedBy: r.RequestedBy, Reason: r.Reason,
		EvenSuccessful: r.EvenSuccessful, Rate: r.Rate, Taken: r.Taken, Complete: r.Complete,
		Total: Count{N: r.Total, More: r.Total == TotalCount}, RequestedAt: r.RequestedAt.Time,
	}
	selection := any(&o.Selection)
	if o.Kind.OnOutbox() {
		selection = &o.Outbox
	}
	if err := json.Unmarshal(r.Selection, selection); err != nil {
		return o, fmt.Errorf("operation %d: selection in the database: %w", r.ID, err)
	}
	return o, nil
}

// Operation returns the operation with the id, or ErrNotFound.
func (s *Store) Operation(ctx context.Context, id int64) (Operation, error) {
	return s.OperationTx(ctx, s.db, id)
}

// OperationTx is Operation in a transaction.
func (s *Store) OperationTx(ctx context.Context, tx Selecter, id int64) (Operation, error) {
	found, err := s.operationsIn(ctx, tx, `SELECT `+operationColumns+` FROM reprise.operations WHERE id = $1`, id)
	if err != nil {
		return Operation{}, err
	}
	if len(found) == 0 {
		return Operation{}, fmt.Errorf("operation %d: %w", id, ErrNotFound)
	}
	return found[0], nil
}

// Operations returns at most limit operations with an id lower than before, newest
// first. A before of 0 starts at the newest; a limit of 0 is DefaultLimit.
func (s *Store) Operations(ctx context.Context, before int64, limit int) ([]Operation, error) {
	if err := validPage("an operation", before, limit); err != nil {
		return nil, err
	}
	if limit == 0 {
		limit = DefaultLimit
	}
	return s.operations(ctx, `
		SELECT `+operationColumns+` FROM reprise.operations WHERE CAST($1 AS bigint) = 0 OR id < $1 ORDER BY id DESC LIMIT $2`, before, limit)
}

// OpenOperations returns the operations on runs that are paused or have not yet taken
// up all their runs, whatever their age, newest first: at most MaxLimit.
func (s *Store) OpenOperations(ctx context.Context) ([]Operation, error) {
	return s.operations(ctx, `
		SELECT `+operationColumns+` FROM reprise.operations
		WHERE kind IN ('replay', 'discard', 'edit', 'backfill') AND (state = 'paused' OR state = 'running' AND NOT complete) ORDER BY id DESC LIMIT $1`, MaxLimit)
}

// OperationsOf returns the operations that took the run up or created it, oldest first.
// For an unknown run it returns none.
func (s *Store) OperationsOf(ctx context.Context, runID int64) ([]Operation, error) {
	return s.operations(ctx, `
		SELECT `+operationColumns+` FROM reprise.operations
		WHERE id IN (
			SELECT operation_id FROM reprise.operation_runs WHERE run_id = $1
			UNION SELECT replay_id FROM reprise.handler_runs WHERE id = $1)
		ORDER BY id`, runID)
}

func (s *Store) operations(ctx context.Context, query string, args ...any) ([]Operation, error) {
	return s.operationsIn(ctx, s.db, query, args...)
}

func (s *Store) operationsIn(ctx context.Context, db Selecter, query string, args ...any) ([]Operation, error) {
	var rows []operationRow
	if err := db.SelectContext(ctx, &rows, s.db.SQL(query), args...); err != nil {
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

// OpenBackfills returns the backfills of a subscription that are running and not
// complete, oldest first.
func (s *Store) OpenBackfills(ctx context.Context, sub Subscription) ([]Operation, error) {
	all, err := s.operations(ctx, `
		SELECT `+operationColumns+` FROM reprise.operations
		WHERE kind = 'backfill' AND state = 'running' AND NOT complete ORDER BY id`)
	return slices.DeleteFunc(all, func(o Operation) bool {
		return o.Selection.Handler != sub.Handler || o.Selection.Topic != sub.Topic
	}), err
}
