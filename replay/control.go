package replay

import (
	"context"
	"time"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/store"
)

// Progress returns what has become of an operation's runs, or store.ErrNotFound.
func Progress(ctx context.Context, st *store.Store, operation int64) (store.Progress, error) {
	return st.Progress(ctx, operation)
}

// Pause stops a replay or a backfill until Resume: its waiting runs are not claimed,
// and no further runs are taken up. A handler that is running continues, and its run
// may be retried. Pause may be called again, whatever the result of the last call.
func Pause(ctx context.Context, st *store.Store, operation int64, request Request) (store.Operation, error) {
	return operate.On(st).Pause(ctx, operation, request.by())
}

// Resume continues an operation that was paused, or whose requester stopped before it
// was complete. It takes up the remaining runs, as All does.
func Resume(ctx context.Context, st *store.Store, operation int64, request Request) (store.Operation, error) {
	o, err := operate.On(st).Release(ctx, operation, request.by())
	if err != nil {
		return o, err
	}
	return goOn(ctx, st, o, request)
}

// Cancel ends a replay or a backfill and takes back its waiting runs. A run that has
// not been tried since gets its former state back, or is deleted if the backfill
// created it. A run that was tried and waits for another attempt becomes FAILED, or
// DISCARDED if it has no error. Cancel may be called again, whatever the result of the
// last call.
func Cancel(ctx context.Context, st *store.Store, operation int64, request Request) (store.Operation, error) {
	return operate.On(st).Cancel(ctx, operation, request.by())
}

// Undo puts the runs that a discard closed back to their former state, if nothing else
// has happened to them since. It may be called again, whatever the result of the last
// call.
func Undo(ctx context.Context, st *store.Store, operation int64, request Request) (store.Operation, store.PutBack, error) {
	return operate.On(st).Undo(ctx, operation, request.by())
}

// Edit gives the handler of a FAILED or DISCARDED run a corrected event. In one
// transaction, it writes a new event that amends the run's event, creates a due run of
// this handler for it, and discards the old run. It returns the operation and the new
// run.
//
// The error is store.ErrNotEnded for a run that is PENDING, and store.ErrNotFound for
// an unknown run. A run that succeeded, a correction that changes nothing, and a
// handler without a subscription are errors, too.
func Edit(ctx context.Context, st *store.Store, run int64, correction store.Correction, request Request) (store.Operation, store.Run, error) {
	o := request.operation(store.Editing, store.Filter{})
	return operate.On(st).Edit(ctx, run, correction, o.RequestedBy, o.Reason)
}

// Past selects the events of a backfill.
type Past struct {
	Handler string
	Topic   string    // "" is the topic of the handler's subscription
	Since   time.Time // published at or after this time; zero is open
	Until   time.Time // published before this time; zero is open
}

func (p Past) filter() store.Filter {
	return store.Filter{Handler: p.Handler, Topic: p.Topic, Since: p.Since, Until: p.Until}
}
