package replay

import (
	"context"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/store"
)

// Prune is [store.Store.Prune].
func Prune(ctx context.Context, st *store.Store, prune store.Prune, progress func(store.Pruned)) (store.Pruned, error) {
	return st.Prune(ctx, prune, progress)
}

// Unsubscribe removes a handler's subscription, or returns store.ErrNotFound. Events
// that are published from then on get no run of the handler, unless a process registers
// it again. Existing runs stay unchanged. A store.Action records who asked for the
// removal.
func Unsubscribe(ctx context.Context, st *store.Store, sub store.Subscription, request Request) error {
	return operate.On(st).Unsubscribe(ctx, sub, request.by())
}

// Recount counts all FAILED runs for the failure groups again, batch by batch. It
// repairs the groups after a change of the tables by hand or a partial restore. After
// each batch it calls progress, if it is not nil.
func Recount(ctx context.Context, st *store.Store, progress func()) error {
	o := operate.On(st)
	if err := o.Recount(ctx); err != nil {
		return err
	}
	for more := true; more; {
		var err error
		if more, err = o.CountFailures(ctx); err != nil {
			return err
		}
		if progress != nil {
			progress()
		}
	}
	return nil
}
