package pubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/store"
)

const (
	maxBatch = 1000                 // outcomes in one statement
	pause    = 2 * time.Millisecond // between two statements: one for many costs little more than one for one
)

// finisher writes how runs ended: what gathers while one batch is written is
// the next batch. An outcome that the database does not take is kept and tried
// again; should the process die first, the run is recovered like any that a
// dead instance held.
type finisher struct {
	store   *store.Store
	log     *slog.Logger
	written func([]store.Outcome) // called when a batch is in the database

	mu      sync.Mutex
	waiting []store.Outcome

	more   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc // gives up on what cannot be written
	quit   chan struct{}      // write what is waiting, then end
	ended  chan struct{}
}

func newFinisher(st *store.Store, log *slog.Logger, written func([]store.Outcome)) *finisher {
	f := &finisher{store: st, log: log, written: written, more: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// add hands an outcome over; it never blocks.
func (f *finisher) add(o store.Outcome) {
	f.mu.Lock()
	f.waiting = append(f.waiting, o)
	f.mu.Unlock()
	signal(f.more)
}

func (f *finisher) start() { go f.loop() }

// close writes what is waiting, as long as ctx allows, and ends the goroutine,
// unless the database keeps it waiting even then.
func (f *finisher) close(ctx context.Context) error {
	close(f.quit)
	defer f.cancel()
	select {
	case <-f.ended:
	case <-ctx.Done():
		f.cancel()
		select {
		case <-f.ended:
		case <-time.After(time.Second):
			return errors.New("the database does not answer: the last runs that ended may run again")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.waiting); n > 0 {
		return fmt.Errorf("the database did not take the end of %d runs: they will run again", n)
	}
	return nil
}

func (f *finisher) loop() {
	defer close(f.ended)
	health := outage.Outage{What: "writing how runs ended", Log: f.log}
	var last time.Time
	for {
		select {
		case <-f.more:
		case <-f.quit:
			f.flush(&health)
			return
		}
		select {
		case <-time.After(pause - time.Since(last)): // at once, when the last is a while ago
		case <-f.quit:
		}
		f.flush(&health)
		last = time.Now()
	}
}

// flush writes until nothing is waiting or the finisher gives up.
func (f *finisher) flush(health *outage.Outage) {
	pace := outage.Pace(5 * time.Second)
	for {
		batch := f.take()
		if len(batch) == 0 {
			return
		}
		lost, err := f.store.End(f.ctx, batch)
		health.Report(f.ctx, err)
		if err == nil {
			pace.Reset()
			f.reportLost(lost)
			f.written(batch)
			continue
		}
		f.putBack(batch)
		select {
		case <-f.ctx.Done():
			return
		case <-time.After(pace.NextBackOff()):
		}
	}
}

func (f *finisher) take() []store.Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	batch := f.waiting
	if len(batch) > maxBatch {
		batch = batch[:maxBatch:maxBatch]
	}
	f.waiting = f.waiting[len(batch):]
	if len(f.waiting) == 0 && len(batch) > 0 { // as many are likely to follow
		f.waiting = make([]store.Outcome, 0, len(batch))
	}
	return batch
}

func (f *finisher) putBack(batch []store.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(batch, f.waiting...)
}

func (f *finisher) reportLost(lost []store.Lease) {
	for _, l := range lost {
		f.log.Error("a handler ended after its run was given to another: this end does not count", "run", l.RunID, "attempt", l.Attempt, "instance", l.Instance)
	}
}
