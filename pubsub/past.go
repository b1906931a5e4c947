package pubsub

import (
	"context"
	"time"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/store"
)

// owed creates the runs that a subscription served here may lack.
func (p *PubSub) owed(sub store.Subscription) {
	p.loops.Go(func() { p.settle(p.loopCtx, sub) })
	if p.registered[sub].beginning {
		p.loops.Go(func() { p.catchUp(p.loopCtx, sub) })
	}
}

// catchUp creates the runs of past events that a handler should still get: from its own
// registration, or from an operator's unfinished backfill. Processes that serve the same
// handler share the work.
func (p *PubSub) catchUp(ctx context.Context, sub store.Subscription) {
	health := outage.Outage{What: "backfill of handler " + sub.Handler, Log: p.config.Logger}
	pace := outage.Pace(5 * time.Second)
	for {
		more, err := p.takePast(ctx, sub)
		health.Report(ctx, err)
		switch {
		case err == nil && !more:
			return
		case err == nil:
			pace.Reset()
			signal(p.wake)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pace.NextBackOff()):
		}
	}
}

// takePast processes one batch of each open backfill. It returns true if there was one.
func (p *PubSub) takePast(ctx context.Context, sub store.Subscription) (more bool, err error) {
	open, err := p.store.OpenBackfills(ctx, sub)
	for _, o := range open {
		if _, err := operate.On(p.store).Take(ctx, o.ID); err != nil {
			return true, err
		}
	}
	return len(open) > 0, err
}
