package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

type tick struct{ At time.Time }

func (tick) EventName() string { return "tick" }

// request asks for a replay of 100,000 runs, chosen from three times as many, while a
// process publishes and handles other events, and prints what either took.
func request(ctx context.Context, st *store.Store, url string, out io.Writer) error {
	b, err := bus.Open(ctx, url, bus.Config{})
	if err != nil {
		return err
	}
	defer b.Close()
	var latencies [2][]time.Duration
	var phase atomic.Int32
	handled := make(chan time.Duration, 1)
	if err := b.Handle(handlers.New("on-tick", func(_ context.Context, e tick) error {
		handled <- time.Since(e.At)
		return nil
	})); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() { ended <- b.Run(ctx) }()
	go func() { ended <- tickAlong(ctx, b, handled, &phase, &latencies) }()
	select {
	case <-time.After(5 * time.Second):
	case err := <-ended:
		stop()
		return err
	}

	selection := store.Filter{Status: store.Failed, Text: "code 1"}
	began := time.Now()
	preview, err := replay.Preview(ctx, st, selection, replay.Request{})
	if err != nil {
		stop()
		return err
	}
	previewed := time.Since(began)
	phase.Store(1)
	began = time.Now()
	o, err := replay.All(ctx, st, selection, replay.Request{By: "bench", Reason: "measurement", Rate: 1})
	took := time.Since(began)
	stop()
	for range 2 {
		if e := <-ended; err == nil {
			err = e
		}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\ndry run of a filtered replay (%v runs of %d parts): %v\n", preview.Total, len(preview.Parts), previewed.Round(time.Millisecond))
	fmt.Fprintf(out, "request of that replay: %d runs in %v\n", o.Taken, took.Round(time.Millisecond))
	for i, when := range []string{"before", "during"} {
		slices.Sort(latencies[i])
		if n := len(latencies[i]); n > 0 {
			fmt.Fprintf(out, "from publish to handler, %s it: p50 %v, p99 %v, max %v (%d events)\n", when,
				latencies[i][n/2].Round(10*time.Microsecond), latencies[i][n*99/100].Round(10*time.Microsecond), latencies[i][n-1].Round(10*time.Microsecond), n)
		}
	}
	return nil
}

// tickAlong publishes one event after the other until ctx ends, and notes how
// long each took to its handler.
func tickAlong(ctx context.Context, b *bus.Bus, handled <-chan time.Duration, phase *atomic.Int32, latencies *[2][]time.Duration) error {
	for {
		p := phase.Load()
		if err := b.Publish(ctx, tick{time.Now()}); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case took := <-handled:
			latencies[p] = append(latencies[p], took)
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}
