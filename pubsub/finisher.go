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
	pause    = 2 * time.Millisecond // between two statements: one for many costs little more than one for one
	// heldUp is how long a statement for a batch may take until its outcomes are
	// written as far as nobody has locked their runs.
	heldUp = 2 * time.Second
	// longest is how long one may take that waits for nobody.
	longest = 10 * time.Second
)

// finisher writes how runs ended: what gathers while one batch is written is
// the next batch. An outcome that the database does not take is kept and tried
// again; should the process die first, the run is recovered like any that a
// dead instance held.
//
// An outcome whose run somebody has locked, or that the database refuses for what
// is in it, is set aside and tried again by itself: it holds up no other.
type finisher struct {
	queue   *queue.Queue
	db      *sqldb.DB
	log     *slog.Logger
	written func([]queue.Outcome) // called when outcomes are in the database

	mu      sync.Mutex
	waiting []queue.Outcome

	// Of the loop alone:
	aside []queue.Outcome
	told  map[queue.Lease]bool // of what is aside, that it was logged
	pace  *backoff.ExponentialBackOff
	due   time.Time // when what is aside is tried again

	more   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc // gives up on what cannot be written
	quit   chan struct{}      // write what is waiting, then end
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

// add hands an outcome over; it never blocks.
func (f *finisher) add(o queue.Outcome) {
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

// write writes a batch and returns what is left of it: what has to be set aside or,
// with an error, what waits until the database works.
func (f *finisher) write(batch []queue.Outcome) (left []queue.Outcome, err error) {
	most := heldUp
	if f.db.OneWriter() { // it locks no rows, and may have others write first
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

// writeFree is write for what nobody has locked; of what is refused together each
// is written for itself. What is refused for a reason that need not be in it is set
// aside if something else was written, and otherwise the database does not work.
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

// isolation is what one search for culprits has found.
type isolation struct {
	wrote    bool            // something
	suspects []queue.Outcome // each refused alone, for a reason that need not be in it
	err      error           // of the last of them
	failed   int             // statements that failed so
	until    time.Time       // it goes on no longer, unless what is refused is so for what is in it
}

// searched is how many statements may fail in one search, which takes no longer than
// heldUp: a server that gives up waiting for locks takes its time for each.
const searched = 64

// isolate returns what is left, or an error when it searches no further.
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

// free tells what is written, and returns what is locked.
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

// done tells what is written, and what did not count.
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

// tryAside tries again to write what is aside.
func (f *finisher) tryAside() {
	before := len(f.aside)
	f.aside, _ = f.writeFree(f.aside) // whatever keeps them, they are tried again
	if len(f.aside) < before {
		f.pace.Reset()
	}
	f.due = time.Now().Add(f.pace.NextBackOff())
}

// flushAside does so until nothing is left or the finisher gives up.
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
