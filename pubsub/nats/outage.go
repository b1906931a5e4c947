package nats

import (
	"context"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// outage logs when something begins to fail and when it works again, and
// nothing in between. For use by one goroutine.
type outage struct {
	what  string
	log   *slog.Logger
	since time.Time
}

func (o *outage) report(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil: // shutting down is no outage
	case err != nil && o.since.IsZero():
		o.since = time.Now()
		o.log.Warn(o.what+" fails; trying again until it works", "error", err)
	case err == nil && !o.since.IsZero():
		o.log.Info(o.what+" works again", "after", time.Since(o.since).Round(time.Millisecond))
		o.since = time.Time{}
	}
}

// newBackoff paces what is tried again until it works.
func newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 50 * time.Millisecond
	b.MaxInterval = 5 * time.Second
	return b
}
