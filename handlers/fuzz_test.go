package handlers_test

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

// FuzzPolicy holds that a policy which Validate accepts decides everything,
// within its own bounds.
func FuzzPolicy(f *testing.F) {
	for _, p := range []handlers.Policy{
		{},
		decided,
		{Attempts: 1, Cycles: 1, Timeout: -1, CycleInterval: 1},
		{Attempts: 1_000_000_000, Cycles: 1_000_000_000, CycleInterval: math.MaxInt64, Timeout: math.MinInt64},
		{Backoff: handlers.Backoff{Initial: time.Millisecond, Factor: 1, Maximum: time.Millisecond, Jitter: 0.999}},
		{Backoff: handlers.Backoff{Initial: century, Factor: 1000, Maximum: century, Jitter: 0.5}},
		{Backoff: handlers.Backoff{Factor: math.NaN(), Jitter: math.Inf(-1)}},
		{Concurrency: -1, Priority: math.MinInt},
	} {
		f.Add(p.Attempts, p.Cycles, int64(p.CycleInterval), int64(p.Backoff.Initial), p.Backoff.Factor, int64(p.Backoff.Maximum), p.Backoff.Jitter,
			int64(p.Timeout), p.Concurrency, p.Priority, 1, 0, uint8(0))
		f.Add(p.Attempts, p.Cycles, int64(p.CycleInterval), int64(p.Backoff.Initial), p.Backoff.Factor, int64(p.Backoff.Maximum), p.Backoff.Jitter,
			int64(p.Timeout), p.Concurrency, p.Priority, math.MaxInt, math.MaxInt32, uint8(3))
	}
	errs := []error{
		errCause, handlers.SkipCycle(errCause), handlers.Permanent(errCause), handlers.Undecodable(errCause),
		&handlers.PanicError{Value: errCause}, &handlers.TimeoutError{Err: errCause}, handlers.ErrNacked, errors.Join(errCause, handlers.SkipCycle(errCause)),
	}
	f.Fuzz(func(t *testing.T, attempts, cycles int, interval, initial int64, factor float64, maximum int64, jitter float64,
		timeout int64, concurrency, priority, tries, cycle int, which uint8,
	) {
		p := handlers.Policy{
			Attempts: attempts, Cycles: cycles, CycleInterval: time.Duration(interval), Timeout: time.Duration(timeout),
			Concurrency: concurrency, Priority: priority,
			Backoff: handlers.Backoff{
				Initial: time.Duration(initial), Factor: factor, Maximum: time.Duration(maximum), Jitter: jitter,
			},
		}
		described := p.Describe() // whatever it is, it is no reason to panic
		if p.Validate() != nil {
			return
		}
		var d struct {
			Attempts, Cycles int
			Interval         string `json:"cycle_interval"`
			Maximum          string `json:"backoff_maximum"`
			Timeout          string
		}
		require.NoError(t, json.Unmarshal([]byte(described), &d))
		require.Positive(t, d.Attempts)
		require.Positive(t, d.Cycles)
		rest, err := time.ParseDuration(d.Interval)
		require.NoError(t, err)
		longest, err := time.ParseDuration(d.Maximum)
		require.NoError(t, err)
		if d.Timeout != "never" {
			described, err := time.ParseDuration(d.Timeout)
			require.NoError(t, err)
			require.Equal(t, described, p.AttemptTimeout())
		}

		run := store.Run{Handler: "mail", Tries: tries, Cycle: cycle}
		o := p.Decide(run, errs[int(which)%len(errs)])
		require.NotNil(t, o.Failure)
		require.False(t, o.Refund)
		switch {
		case o.Status == store.Failed:
			require.Zero(t, o.Delay)
			require.False(t, o.NextCycle)
		case o.NextCycle:
			require.Equal(t, store.Pending, o.Status)
			require.Equal(t, rest, o.Delay)
		default:
			require.Equal(t, store.Pending, o.Status)
			require.GreaterOrEqual(t, o.Delay, time.Duration(0))
			require.LessOrEqual(t, o.Delay, longest)
			require.False(t, p.Exhausted(run))
		}
	})
}
