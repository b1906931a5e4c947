package replay

import (
	"context"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/store"
)

// Prune deletes what is old, batch by batch. progress, if it is not nil, is called
// after each batch with what is deleted so far; when ctx ends, that stays deleted. An
// Action on record says who has asked for it, by default the user that the process
// runs as, and what was deleted.
func Prune(ctx context.Context, st *store.Store, prune store.Prune, progress func(store.Pruned)) (store.Pruned, error) {
	if prune.By.Name == "" {
		prune.By.Name = whoami()
	}
	return operate.On(st).Prune(ctx, prune, progress)
}

// Unsubscribe removes a handler's subscription, or returns store.ErrNotFound: no event
// published from then on gets a run of the handler, unless a process registers it
// again. Runs that there are stay as they are. An Action on record says who has asked
// for it.
func Unsubscribe(ctx context.Context, st *store.Store, sub store.Subscription, request Request) error {
	return operate.On(st).Unsubscribe(ctx, sub, request.by())
}

// Recount counts all FAILED runs for the failure groups anew, batch by batch: those of
// which somebody has changed tables by hand, or restored a part, are then right again.
// progress, if it is not nil, is called after each batch.
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

// BeginPublishing puts on record that somebody publishes events by hand on a topic.
// Each event names the operation's ID in its metadata, under store.OperationMetadata.
func BeginPublishing(ctx context.Context, st *store.Store, topic string, request Request) (store.Operation, error) {
	by := request.by()
	return operate.On(st).RecordPublishing(ctx, store.Operation{RequestedBy: by.Name, Reason: by.Reason, Selection: store.Filter{Topic: topic}})
}

// NotePublished puts on record how many events an operation of BeginPublishing has
// published, and whether these are all.
func NotePublished(ctx context.Context, st *store.Store, operation, published int64, complete bool) error {
	return operate.On(st).Published(ctx, operation, published, complete)
}
