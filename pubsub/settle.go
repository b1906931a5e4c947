package pubsub

import (
	"context"
	"time"

	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// settle creates the runs that transactions owe to a subscription which were open
// when it was committed, and returns when all of them have ended. Processes that
// serve the same handler may all do so.
func (p *PubSub) settle(ctx context.Context, sub store.Subscription) {
	health := outage.Outage{What: "looking for what was published while handler " + sub.Handler + " came up", Log: p.config.Logger}
	pace := outage.Pace(p.config.PollInterval)
	for open := ""; ; {
		still, created, err := p.queue.Settle(ctx, sub, open)
		if err == nil || sqldb.Unacceptable(err) { // when the database does not work, others say so
			health.Report(ctx, err)
		}
		if created > 0 {
			signal(p.wake)
		}
		if err == nil {
			if still == "" {
				return
			}
			open = still
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pace.NextBackOff()):
		}
	}
}
