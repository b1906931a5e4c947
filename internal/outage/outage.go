// Package outage retries until something works, such as reaching a server. It logs the
// first failure and the recovery.
package outage

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Outage logs when something begins to fail and when it works again, and nothing in
// between. It is for use by one goroutine.
type Outage struct {
	What string
	Log  *slog.Logger

	since time.Time
}

// Report takes the result of one try. A failure after the end of ctx is no outage.
func (o *Outage) Report(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err != nil && o.since.IsZero():
		o.since = time.Now()
		o.Log.Warn(o.What+" fails; trying again until it works", "error", err)
	case err == nil && !o.since.IsZero():
		o.Log.Info(o.What+" works again", "after", time.Since(o.since).Round(time.Millisecond))
		o.since = time.Time{}
	}
}

// Until calls f until it succeeds, and logs the outage. It returns an error for which
// passes returns false. When ctx ends, it returns the error of ctx with that of the
// last try.
func (o *Outage) Until(ctx context.Context, longest time.Duration, passes func(error) bool, f func() error) error {
	for pace := Pace(longest); ; {
		err := f()
		if err != nil && ctx.Err() == nil && !passes(err) {
			return err
		}
		o.Report(ctx, err)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pace.NextBackOff()):
		}
	}
}

// Pace returns the pauses between tries, which grow to longest.
func Pace(longest time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = min(50*time.Millisecond, longest)
	b.MaxInterval = longest
	return b
}
