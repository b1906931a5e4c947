// Package replay runs failed runs again. A replay is a request on record: it
// makes the selected runs due, and whatever instance serves their handlers
// claims them like any other run, through the same handler and middleware.
// What failed before stays on record.
package replay

import (
	"context"
	"errors"
	"fmt"
	"os/user"

	"github.com/reprise-bus/reprise/store"
)

// ErrEmptySelection is returned for a filter that names nothing: everything
// must be asked for, by Filter{Status: store.Failed}.
var ErrEmptySelection = errors.New("the selection is empty")

// ErrNotFailed is returned for a run that cannot be replayed.
var ErrNotFailed = errors.New("only failed runs are replayed")

// Request says who wants a replay and why. A zero field means its default.
type Request struct {
	By     string // default: the user that the process runs as
	Reason string
}

// One makes the run with the id due again. A run that is not FAILED is
// ErrNotFailed, an unknown one store.ErrNotFound.
func One(ctx context.Context, st *store.Store, id int64, request Request) (store.Replay, error) {
	run, err := st.Run(ctx, id)
	if err != nil {
		return store.Replay{}, fmt.Errorf("replay: %w", err)
	}
	replay, err := requeue(ctx, st, store.Filter{IDs: []int64{id}}, request)
	if err == nil && replay.Total == 0 {
		err = fmt.Errorf("replay: run %d is %s: %w", id, run.Status, ErrNotFailed)
	}
	return replay, err
}

// All makes every failed run that the filter selects due again, not only a
// page of them, and returns how many those were. The filter's Status is FAILED
// or empty; a filter with nothing set at all is ErrEmptySelection.
func All(ctx context.Context, st *store.Store, filter store.Filter, request Request) (store.Replay, error) {
	if filter.Empty() {
		return store.Replay{}, fmt.Errorf("replay: %w: to replay all that failed, set the filter's Status to %s", ErrEmptySelection, store.Failed)
	}
	return requeue(ctx, st, filter, request)
}

func requeue(ctx context.Context, st *store.Store, filter store.Filter, request Request) (store.Replay, error) {
	if request.By == "" {
		request.By = whoami()
	}
	replay, err := st.Requeue(ctx, store.Replay{RequestedBy: request.By, Reason: request.Reason, Selection: filter})
	if err != nil {
		return replay, fmt.Errorf("replay: %w", err)
	}
	return replay, nil
}

func whoami() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}
