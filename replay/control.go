package replay

import (
	"context"
	"time"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/store"
)

// Progress returns what has become of an operation's runs, or
// store.ErrNotFound.
func Progress(ctx context.Context, st *store.Store, operation int64) (store.Progress, error) {
	return st.Progress(ctx, operation)
}

// Pause keeps the runs of a replay or a backfill that wait from being claimed, and
// further ones from being taken up, until Resume. What a handler works on goes on, and
// may be tried again. Pause may be called again, whatever became of the last call.
func Pause(ctx context.Context, st *store.Store, operation int64, request Request) (store.Operation, error) {
	return operate.On(st).Pause(ctx, operation, request.by())
}

// Resume goes on with an operation that was paused, or whose requester stopped
// before it was complete. It takes up what is left, as All does.
func Resume(ctx context.Context, st *store.Store, operation int64, request Request) (store.Operation, error) {
	o, err := operate.On(st).Release(ctx, operation, request.by())
	if err != nil {
		return o, err
	}
	return goOn(ctx, st, o, request)
}

// Cancel ends a replay or a backfill and takes back what waits of it. A run that has
// not been tried since stands again where it stood before, or is no more if the
// backfill made it; one that has been, and waits to be tried again, is FAILED. Cancel
// may be called again, whatever became of the last call.
func Cancel(ctx context.Context, st *store.Store, operation int64, request Request) (store.Operation, error) {
	return operate.On(st).Cancel(ctx, operation, request.by())
}

// Undo puts the runs that a discard closed back to where they stood, those that
// nothing else has happened to since. It may be called again, whatever became of the
// last call.
func Undo(ctx context.Context, st *store.Store, operation int64, request Request) (store.Operation, store.PutBack, error) {
	return operate.On(st).Undo(ctx, operation, request.by())
}

// Edit gives the handler of a FAILED or DISCARDED run a corrected event instead: it
// writes a new event, which amends the run's, makes a due run of this handler alone for
// it, and discards the old run, all or nothing. It returns the operation and the new
// run. A run that is PENDING is store.ErrNotEnded, an unknown one store.ErrNotFound. A
// run that succeeded, a correction that corrects nothing, and a handler without a
// subscription are errors, too.
func Edit(ctx context.Context, st *store.Store, run int64, correction store.Correction, request Request) (store.Operation, store.Run, error) {
	o := request.operation(store.Editing, store.Filter{})
	return operate.On(st).Edit(ctx, run, correction, o.RequestedBy, o.Reason)
}

// Past is the events that a backfill is about.
type Past struct {
	Handler string
	Topic   string    // "" is the one that the handler has
	Since   time.Time // published at or after; zero is open
	Until   time.Time // published before; zero is now
}

func (p Past) filter() store.Filter {
	return store.Filter{Handler: p.Handler, Topic: p.Topic, Since: p.Since, Until: p.Until}
}
