// Package replay does what an operator does with runs that ended badly: it runs them
// again, discards them, corrects their events, and gives handlers past events. It also
// publishes events by hand, changes the outbox and deletes old events.
//
// Preview returns a Plan: what a replay would do, and what is in its way. Each request is
// an operation on record: who wants what, why, and how far it is; Wait waits until it is
// over. The package only writes to the database; a Publisher may also send to a broker.
// Any instance that serves the handler claims the runs, and passes them through the same
// handler and middleware as all others. Earlier failures stay on record.
package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/reprise-bus/reprise/internal/actions"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/store"
)

// ErrEmptySelection is returned for a filter with no field set. To select every failed
// run, say so: Filter{Status: store.Failed}.
var ErrEmptySelection = errors.New("the selection is empty")

// ErrNotFailed is returned for a run that cannot be replayed.
var ErrNotFailed = errors.New("only failed runs are replayed")

// Request says who wants something done, why, and how. A zero field means its default.
type Request struct {
	By     string // default: the user that the process runs as
	Reason string

	// Rate is how many runs become due per second, at most 1,000,000. By default, all
	// become due at once.
	Rate float64

	// EvenSuccessful also replays runs that succeeded, if the selection's Status is
	// empty or SUCCESS.
	EvenSuccessful bool

	// Progress, if it is not nil, is called after each batch.
	Progress func(store.Operation)
}

// by returns the requester and the reason.
func (r Request) by() store.By {
	if r.By == "" {
		r.By = actions.Whoami()
	}
	return store.By{Name: r.By, Reason: r.Reason}
}

func (r Request) operation(kind store.OperationKind, selection store.Filter) store.Operation {
	selection.Before, selection.Limit = 0, 0 // a selection has no pages
	by := r.by()
	return store.Operation{
		Kind: kind, RequestedBy: by.Name, Reason: by.Reason, Selection: selection,
		Rate: r.Rate, EvenSuccessful: r.EvenSuccessful,
	}
}

// One makes the run with the id due again. The error is store.ErrNotFound for an
// unknown run. It is ErrNotFailed for a run that is not FAILED or DISCARDED; with
// EvenSuccessful, SUCCESS is allowed, too.
func One(ctx context.Context, st *store.Store, id int64, request Request) (store.Operation, error) {
	run, err := st.Run(ctx, id)
	if err != nil {
		return store.Operation{}, fmt.Errorf("replay: %w", err)
	}
	if run.Status == store.Pending || run.Status == store.Success && !request.EvenSuccessful {
		return store.Operation{}, fmt.Errorf("replay: run %d is %s: %w", id, run.Status, ErrNotFailed)
	}
	o, err := take(ctx, st, request.operation(store.Replaying, store.Filter{IDs: []int64{id}, Status: run.Status}), request)
	if err == nil && o.Taken == 0 {
		err = fmt.Errorf("replay: run %d was taken up by somebody else: %w", id, ErrNotFailed)
	}
	return o, err
}

// All makes every failed run that the filter selects due again, batch by batch, at the
// request's rate. It ignores the filter's page. The filter's Status is empty, FAILED or
// DISCARDED; with EvenSuccessful, SUCCESS is allowed, too. A filter with no field set
// is ErrEmptySelection. A run that is PENDING is passed over.
//
// When ctx ends or the database goes away, All returns the operation with the error. If
// the operation's ID is not 0, it is on record and incomplete: Resume continues it.
func All(ctx context.Context, st *store.Store, selection store.Filter, request Request) (store.Operation, error) {
	if err := named(selection); err != nil {
		return store.Operation{}, fmt.Errorf("replay: %w", err)
	}
	return take(ctx, st, request.operation(store.Replaying, selection), request)
}

// Discard closes every FAILED run that the filter selects as DISCARDED, batch by batch,
// as All replays them. With the filter's Status PENDING, it closes the runs that are
// not leased. Undo takes a discard back.
func Discard(ctx context.Context, st *store.Store, selection store.Filter, request Request) (store.Operation, error) {
	if err := named(selection); err != nil {
		return store.Operation{}, fmt.Errorf("discard: %w", err)
	}
	return take(ctx, st, request.operation(store.Discarding, selection), request)
}

func named(selection store.Filter) error {
	if selection.Empty() {
		return fmt.Errorf("%w: to mean everything that failed, set the filter's Status to %s", ErrEmptySelection, store.Failed)
	}
	return nil
}

// Backfill creates the runs that a handler lacks for past events of its topic, the
// oldest event first, batch by batch, as All does.
func Backfill(ctx context.Context, st *store.Store, past Past, request Request) (store.Operation, error) {
	o, err := operate.On(st).RequestBackfill(ctx, request.operation(store.Backfilling, past.filter()))
	if err != nil {
		return o, err
	}
	return goOn(ctx, st, o, request)
}

// PreviewBackfill returns the operation that Backfill would record, with its topic and
// the number of its events. It changes nothing.
func PreviewBackfill(ctx context.Context, st *store.Store, past Past, request Request) (store.Operation, error) {
	return operate.On(st).PreviewBackfill(ctx, request.operation(store.Backfilling, past.filter()))
}

// take records the operation and takes up all its runs.
func take(ctx context.Context, st *store.Store, o store.Operation, request Request) (store.Operation, error) {
	o, err := operate.On(st).Request(ctx, o)
	if err != nil {
		return o, fmt.Errorf("%s: %w", o.Kind, err)
	}
	return goOn(ctx, st, o, request)
}

// goOn takes up the remaining runs.
func goOn(ctx context.Context, st *store.Store, o store.Operation, request Request) (store.Operation, error) {
	for !o.Complete && o.State == store.Running {
		next, err := operate.On(st).Take(ctx, o.ID)
		if err != nil {
			return o, fmt.Errorf("operation %d is on record, and stopped after %d runs: %w", o.ID, o.Taken, err)
		}
		if o = next; request.Progress != nil {
			request.Progress(o)
		}
	}
	return o, nil
}
