package pubsub

import (
	"context"
	"time"

	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// settlePause is the first pause between two looks at the open transactions. Each look
// that finds one ended reads the events published since the handler came.
const settlePause = 250 * time.Millisecond

// settle creates the runs that a subscription lacks because a publishing transaction was
// open when the subscription was committed. It returns when all of these transactions
// have ended. Several processes that serve the handler may do this at once.
func (p *PubSub) settle(ctx context.Context, sub store.Subscription) {
	health := outage.Outage{What: "looking for what was published while handler " + sub.Handler + " came up", Log: p.config.Logger}
	pace := outage.Pace(p.config.PollInterval)
	pace.InitialInterval = min(settlePause, p.config.PollInterval) // most transactions have ended by then
	pace.Reset()
	for open := ""; ; {
		still, created, err := p.queue.Settle(ctx, sub, open)
		if err == nil || sqldb.Unacceptable(err) { // other loops log that the database does not work
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
