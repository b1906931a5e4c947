package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// latencyWithin publishes and handles in one process.
func latencyWithin(ctx context.Context, t *trial) (f figures, err error) {
	p, err := t.spawn(ctx, setup{Handlers: 1, Defaults: true, Latency: true})
	if err != nil {
		return f, err
	}
	defer p.close(ctx)
	return t.latency(ctx, p, p)
}

// latencyAcross publishes in one process and handles in another.
func latencyAcross(ctx context.Context, t *trial) (f figures, err error) {
	handler, err := t.spawn(ctx, setup{Handlers: 1, Defaults: true, Latency: true})
	if err != nil {
		return f, err
	}
	defer handler.close(ctx)
	publisher, err := t.spawn(ctx, setup{Defaults: true})
	if err != nil {
		return f, err
	}
	defer publisher.close(ctx)
	return t.latency(ctx, publisher, handler)
}

const (
	warmUp  = 5                      // events that are handled and not counted
	meanGap = 100 * time.Millisecond // between events
)

// latency publishes single events at random times that do not depend on when the earlier ones were
// handled: a system that polls is then met at every point of its interval.
func (t *trial) latency(ctx context.Context, publisher, handler *process) (f figures, err error) {
	if err := handler.start(ctx); err != nil {
		return f, err
	}
	if err := t.calm(ctx); err != nil {
		return f, err
	}
	one := load{Events: 1, Batch: 1, Callers: 1}
	for i := range warmUp {
		if _, err := publisher.publish(ctx, one, 0); err != nil {
			return f, err
		}
		if got, err := handler.wait(ctx, i+1, 10*time.Second); err != nil || got <= i {
			return f, errors.Join(errors.New("an event was not handled in 10 s"), err)
		}
	}
	gaps := rand.New(rand.NewPCG(1, 2)) // the same for all systems
	next := time.Now()
	for range t.n {
		next = next.Add(time.Duration(gaps.ExpFloat64() * float64(meanGap)))
		if err := pause(ctx, time.Until(next)); err != nil {
			return f, err
		}
		if _, err := publisher.publish(ctx, one, 0); err != nil {
			return f, err
		}
	}
	done, err := handler.wait(ctx, warmUp+t.n, t.limit)
	if err != nil {
		return f, err
	}
	samples, err := handler.latencies(ctx)
	if err != nil || len(samples) <= warmUp {
		return f, errors.Join(errors.New("no event was handled"), err)
	}
	samples = samples[warmUp:]
	f = figures{P50: milliseconds(percentile(samples, 50)), P99: milliseconds(percentile(samples, 99))}
	if done < warmUp+t.n {
		f.Note = "some events were never handled"
	}
	return f, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
