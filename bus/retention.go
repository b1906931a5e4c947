package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// pruneLoop deletes events older than Config.Retention at intervals until ctx ends. Any
// number of processes may do this at once.
func (b *Bus) pruneLoop(ctx context.Context) {
	interval := min(max(b.config.Retention/10, time.Second), time.Hour)
	for {
		switch deleted, err := b.prune(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			b.config.Logger.Warn("deleting old events fails; trying again", "in", interval, "error", err)
		case deleted != store.Pruned{}:
			b.config.Logger.Info("deleted old events", "events", deleted.Events, "runs", deleted.Runs, "outgoing", deleted.Outgoing, "older_than", b.config.Retention)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
		}
	}
}

func (b *Bus) prune(ctx context.Context) (store.Pruned, error) {
	now, err := b.store.Clock(ctx)
	if err != nil {
		return store.Pruned{}, err
	}
	return b.store.Prune(ctx, store.Prune{
		Before: now.Add(-b.config.Retention), Discarded: b.config.PruneDiscarded,
		By: store.By{Name: "retention", Reason: fmt.Sprintf("older than %v", b.config.Retention)}, Daily: true,
	}, nil)
}
