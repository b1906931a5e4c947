package pubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

const (
	maxBatch = 1000                 // outcomes in one statement
	pause    = 2 * time.Millisecond // between two statements; many outcomes cost little more than one
	// heldUp is how long a statement for a batch may take. After that only the outcomes
	// whose runs are not locked are written.
	heldUp = 2 * time.Second
	// longest is how long a statement that waits for no lock may take.
	longest = 10 * time.Second
)

// finisher writes the ends of runs. Outcomes that arrive while one batch is written form
// the next batch. An outcome that cannot be written is kept and retried. If the process
// dies first, the run is recovered like every run of a dead instance.
//
// An outcome whose run is locked, or that the database refuses for its content, is set
// aside and retried separately: it delays no other.
type finisher struct {
	queue   *queue.Queue
	db      *sqldb.DB
	log     *slog.Logger
	written func([]queue.Outcome) // called with the written outcomes

	mu      sync.Mutex
	waiting []queue.Outcome

	// Used by the loop only:
	aside []queue.Outcome
	told  map[queue.Lease]bool // outcomes set aside that were logged
	pace  *backoff.ExponentialBackOff
	due   time.Time // when the outcomes set aside are retried

	more   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc // gives up on outcomes that cannot be written
	quit   chan struct{}      // write the waiting outcomes, then end
	ended  chan struct{}
}

func newFinisher(q *queue.Queue, db *sqldb.DB, log *slog.Logger, written func([]queue.Outcome)) *finisher {
	f := &finisher{
		queue: q, db: db, log: log, written: written, told: map[queue.Lease]bool{}, pace: outage.Pace(5 * time.Second),
		more: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// add hands an outcome over. It never blocks.
func (f *finisher) add(o queue.Outcome) {
	f.mu.Lock()
	f.waiting = append(f.waiting, o)
	f.mu.Unlock()
	signal(f.more)
}

func (f *finisher) start() { go f.loop() }

// close writes the waiting outcomes until ctx ends, and then ends the goroutine, unless
// the database blocks it for 1 s more.
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
	if n := len(f.waiting) + len(f.aside); n > 0 {
		return fmt.Errorf("the database did not take the end of %d runs: they will run again", n)
	}
	return nil
}

func (f *finisher) loop() {
	defer close(f.ended)
	health := outage.Outage{What: "writing how runs ended", Log: f.log}
	var last time.Time
	for {
		again := make(<-chan time.Time)
		if len(f.aside) > 0 {
			again = time.After(time.Until(f.due))
		}
		select {
		case <-f.more:
		case <-again:
			f.tryAside()
			continue
		case <-f.quit:
			f.flush(&health)
			f.flushAside()
			return
		}
		select {
		case <-time.After(pause - time.Since(last)): // at once if the last statement is long ago
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
		left, err := f.write(batch)
		health.Report(f.ctx, err)
		if err == nil {
			f.setAside(left)
			pace.Reset()
			continue
		}
		f.putBack(left)
		select {
		case <-f.ctx.Done():
			return
		case <-time.After(pace.NextBackOff()):
		}
	}
}

// write writes a batch. It returns the outcomes to set aside or, with an error, the
// outcomes that must wait until the database works.
func (f *finisher) write(batch []queue.Outcome) (left []queue.Outcome, err error) {
	most := heldUp
	if f.db.OneWriter() { // SQLite has no row locks, and may let other writers go first
		most = longest
	}
	ctx, cancel := context.WithTimeout(f.ctx, most)
	defer cancel()
	lost, err := f.queue.End(ctx, batch)
	if err == nil {
		f.done(batch, lost)
		return nil, nil
	}
	if f.ctx.Err() != nil || ctx.Err() == nil && !sqldb.Answered(err) {
		return batch, err
	}
	return f.writeFree(batch)
}

// writeFree is write for the outcomes whose runs are not locked. If the database refuses
// several together, it writes the halves, down to single outcomes. An outcome that is
// refused for a reason that may lie outside it is set aside if another was written.
// Otherwise the database counts as not working.
func (f *finisher) writeFree(batch []queue.Outcome) (left []queue.Outcome, err error) {
	i := isolation{until: time.Now().Add(heldUp)}
	left, err = f.isolate(batch, &i)
	if err == nil && !i.wrote {
		err = i.err
	}
	if err != nil {
		return left, err
	}
	for _, o := range i.suspects {
		f.tell(o, i.err.Error())
	}
	return left, nil
}

// isolation is the result of one search for the outcomes that the database refuses.
type isolation struct {
	wrote    bool            // at least one outcome was written
	suspects []queue.Outcome // refused alone, each for a reason that may lie outside it
	err      error           // error of the last suspect
	failed   int             // statements that failed for such a reason
	until    time.Time       // end of the search, except for outcomes refused for their content
}

// searched is how many statements may fail in one search. The search also ends after
// heldUp, because a server that waits for locks takes its time for each statement.
const searched = 64

// isolate returns the outcomes that are left, or an error when the search ends.
func (f *finisher) isolate(batch []queue.Outcome, i *isolation) (left []queue.Outcome, err error) {
	ctx, cancel := context.WithTimeout(f.ctx, longest)
	defer cancel()
	lost, locked, err := f.queue.EndUnlocked(ctx, batch)
	if err == nil {
		return f.free(batch, lost, locked, i), nil
	}
	content := sqldb.Unacceptable(err)
	if !content {
		i.failed++
	}
	switch {
	case ctx.Err() != nil || !sqldb.Answered(err):
		return batch, err
	case len(batch) == 1 && content:
		f.tell(batch[0], err.Error())
		return batch, nil
	case len(batch) == 1:
		i.suspects, i.err = append(i.suspects, batch[0]), err
		return batch, nil
	case i.failed > searched || !content && time.Now().After(i.until):
		return batch, err
	}
	first, second := batch[:len(batch)/2], batch[len(batch)/2:]
	if left, err = f.isolate(first, i); err != nil {
		return append(left[:len(left):len(left)], second...), err
	}
	more, err := f.isolate(second, i)
	return append(left[:len(left):len(left)], more...), err
}

// free reports the written outcomes and returns those whose runs are locked.
func (f *finisher) free(batch []queue.Outcome, lost, locked []queue.Lease, i *isolation) (left []queue.Outcome) {
	waits := make(map[queue.Lease]bool, len(locked))
	for _, l := range locked {
		waits[l] = true
	}
	written := make([]queue.Outcome, 0, len(batch))
	for _, o := range batch {
		if waits[o.Lease] {
			left = append(left, o)
			f.tell(o, "its run is locked by a transaction that has not ended")
		} else {
			written = append(written, o)
		}
	}
	i.wrote = i.wrote || len(written) > 0
	f.done(written, lost)
	return left
}

// done reports the written outcomes and logs those that did not count.
func (f *finisher) done(batch []queue.Outcome, lost []queue.Lease) {
	for _, l := range lost {
		f.log.Warn("a handler ended after its run was given to another: this end does not count", "run", l.RunID, "attempt", l.Attempt, "instance", l.Instance)
	}
	for _, o := range batch {
		if f.told[o.Lease] {
			delete(f.told, o.Lease)
			f.log.Info("the end of a run is written after all", "run", o.Lease.RunID, "attempt", o.Lease.Attempt)
		}
	}
	f.written(batch)
}

// tell logs once why an outcome is set aside.
func (f *finisher) tell(o queue.Outcome, why string) {
	if f.told[o.Lease] {
		return
	}
	f.told[o.Lease] = true
	f.log.Warn("the end of a run cannot be written; trying again until it can, and going on with others",
		"run", o.Lease.RunID, "attempt", o.Lease.Attempt, "status", o.Status, "error", why)
}

func (f *finisher) setAside(outcomes []queue.Outcome) {
	if len(outcomes) == 0 {
		return
	}
	if len(f.aside) == 0 {
		f.pace.Reset()
		f.due = time.Now().Add(f.pace.NextBackOff())
	}
	f.aside = append(f.aside, outcomes...)
}

// tryAside retries the outcomes set aside.
func (f *finisher) tryAside() {
	before := len(f.aside)
	f.aside, _ = f.writeFree(f.aside) // retried later, whatever the error
	if len(f.aside) < before {
		f.pace.Reset()
	}
	f.due = time.Now().Add(f.pace.NextBackOff())
}

// flushAside retries until nothing is left or the finisher gives up.
func (f *finisher) flushAside() {
	for len(f.aside) > 0 && f.ctx.Err() == nil {
		f.tryAside()
		select {
		case <-f.ctx.Done():
		case <-time.After(min(time.Until(f.due), time.Second)):
		}
	}
}

func (f *finisher) take() []queue.Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	batch := f.waiting
	if len(batch) > maxBatch {
		batch = batch[:maxBatch:maxBatch]
	}
	f.waiting = f.waiting[len(batch):]
	if len(f.waiting) == 0 && len(batch) > 0 { // as many are likely to follow
		f.waiting = make([]queue.Outcome, 0, len(batch))
	}
	return batch
}

func (f *finisher) putBack(batch []queue.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(batch, f.waiting...)
}
