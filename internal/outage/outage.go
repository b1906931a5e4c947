// Package outage is for what is tried again until it works, such as reaching a
// server: it is logged when it begins to fail, and when it works again.
package outage

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Outage logs when something begins to fail and when it works again, and nothing
// in between. For use by one goroutine.
type Outage struct {
	What string
	Log  *slog.Logger

	since time.Time
}

// Report is told of each try. What fails because ctx has ended is no outage.
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

// Until calls f until it succeeds, which is logged as an outage is. It returns an
// error of f that does not pass, and when ctx ends its error with that of the last
// try.
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

// Pace returns the waits between tries, which grow to the longest.
func Pace(longest time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = min(50*time.Millisecond, longest)
	b.MaxInterval = longest
	return b
}
