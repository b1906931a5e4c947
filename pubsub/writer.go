package pubsub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Limits of one statement. A larger publish is several statements in one transaction.
const (
	maxEvents = 2000
	maxBytes  = 8 << 20
)

const (
	// maxWriters is how many statements are under way at once: while the database works
	// on one, the next gathers.
	maxWriters = 2
	// patience is how long a writer waits for callers that publish one event after the
	// other.
	patience = 100 * time.Microsecond
)

// writer makes concurrent publishes share statements: calls that arrive while some are
// being written form the next statement. Its goroutines live while calls are waiting.
type writer struct {
	now   func(ctx context.Context, events []store.Event) (knownEvents, error)                          // writes the events in one statement
	large func(ctx context.Context, events []store.Event, committing *atomic.Bool) (knownEvents, error) // writes the events in several statements and one transaction
	log   *slog.Logger

	mu      sync.Mutex
	waiting []*call
	writing int

	batches sync.RWMutex // held for reading while a batch is written
}

// call is one publish on its way.
type call struct {
	events []store.Event
	bytes  int
	ended  chan written // capacity 1: the caller may have left
}

// written is the result of a publish.
type written struct {
	known knownEvents // may include events of other publishes
	err   error
}

// publish returns when the events are committed, when that has failed, or when ctx ends.
func (w *writer) publish(ctx context.Context, events []store.Event) error {
	if len(split(events)) > 1 {
		return w.publishLarge(ctx, events)
	}
	c := &call{events: events, bytes: size(events), ended: make(chan written, 1)}
	w.mu.Lock()
	w.waiting = append(w.waiting, c)
	if w.writing < maxWriters {
		w.writing++
		go w.write()
	}
	w.mu.Unlock()
	select {
	case end := <-c.ended:
		sayKnown(ctx, w.log, events, end.known)
		return end.err
	case <-ctx.Done():
	}
	if w.withdraw(c) {
		return nothingWritten(context.Cause(ctx))
	}
	return maybeWritten(context.Cause(ctx))
}

// publishLarge returns when ctx ends even if the driver does not notice that, as while it
// connects.
func (w *writer) publishLarge(ctx context.Context, events []store.Event) error {
	var committing atomic.Bool
	ended := make(chan written, 1)
	w.batches.RLock()
	go func() {
		defer w.batches.RUnlock()
		known, err := w.large(ctx, events, &committing)
		ended <- written{known, err}
	}()
	select {
	case end := <-ended:
		sayKnown(ctx, w.log, events, end.known)
		return end.err
	case <-ctx.Done():
	}
	if committing.Load() {
		return maybeWritten(context.Cause(ctx))
	}
	return nothingWritten(context.Cause(ctx)) // and never will be: Commit refuses after ctx has ended
}

// ErrMaybeWritten is wrapped by the error of a publish whose commit is in doubt. To be
// sure, publish the same messages again.
var ErrMaybeWritten = errors.New("the events may have been written: publish the same messages again to be sure")

// whatIsKnown adds to the error of a statement whether the events may have been written.
func whatIsKnown(err error) error {
	if sqldb.Refused(err) {
		return nothingWritten(err)
	}
	return maybeWritten(err)
}

func nothingWritten(err error) error { return fmt.Errorf("%w; nothing was written", err) }
func maybeWritten(err error) error   { return fmt.Errorf("%w; %w", err, ErrMaybeWritten) }

// withdraw takes back a call that is still waiting.
func (w *writer) withdraw(c *call) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, other := range w.waiting {
		if other == c {
			w.waiting = append(w.waiting[:i:i], w.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// wait returns when the statements under way have ended. Publishing may go on meanwhile.
func (w *writer) wait() {
	w.batches.Lock()
	defer w.batches.Unlock()
}

func (w *writer) write() {
	for callers := w.writeNext(); callers > 0; callers = w.writeNext() {
		w.gather(callers)
	}
}

// writeNext writes the calls of the next statement. It returns the result of
// writeTogether, or 0 if no call is left.
func (w *writer) writeNext() (callers int) {
	w.batches.RLock()
	defer w.batches.RUnlock()
	calls := w.take()
	if len(calls) == 0 {
		return 0
	}
	return w.writeTogether(calls)
}

// gather waits until the callers that just got their result can call again, so that they
// are written together with the waiting calls. Otherwise the two halves would take turns
// for ever.
func (w *writer) gather(callers int) {
	if callers == 1 {
		return
	}
	for until := time.Now().Add(patience); time.Now().Before(until) && w.count() < callers; {
		runtime.Gosched()
	}
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting)
}

// take returns the calls of the next statement. If there are none, the goroutine is done.
func (w *writer) take() []*call {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, bytes, n := 0, 0, 0
	for _, c := range w.waiting {
		events, bytes = events+len(c.events), bytes+c.bytes
		if n > 0 && (events > maxEvents || bytes > maxBytes) {
			break
		}
		n++
	}
	calls := w.waiting[:n:n]
	w.waiting = w.waiting[n:]
	if n == 0 {
		w.waiting = nil
		w.writing--
	}
	return calls
}

// writeTogether writes calls in one statement. If the database refuses part of it, each
// call is tried alone, so that only the refused one fails. The statement is not bound to
// a caller's context, since it is shared. writeTogether returns the number of callers:
// those of this statement and those waiting at its end.
func (w *writer) writeTogether(calls []*call) (callers int) {
	events := calls[0].events
	for _, c := range calls[1:] {
		events = append(events[:len(events):len(events)], c.events...)
	}
	known, err := w.now(context.Background(), events)
	callers = len(calls) + w.count()
	if len(calls) > 1 && divisible(err) {
		var each alone
		for _, c := range calls {
			var known knownEvents
			err := each.try(func() (err error) {
				known, err = w.now(context.Background(), c.events)
				return err
			})
			c.ended <- written{known, err}
		}
		return callers
	}
	for _, c := range calls {
		c.ended <- written{known, err}
	}
	return callers
}

// divisible reports whether parts of a batch that failed with err may be accepted.
func divisible(err error) bool { return sqldb.Refused(err) && sqldb.Answered(err) }

// alone tries the parts of a refused batch one by one. It gives up when two parts in a
// row find something locked: the lock is not theirs alone, and the other parts should not
// wait for it, too. It also gives up when none of the first atFirst parts is accepted,
// for a reason that may lie outside them: then the database accepts nothing.
type alone struct {
	locked   int // in a row
	accepted bool
	refused  int
	err      error
}

// atFirst is how many parts are tried before one is accepted.
const atFirst = 8

// givenUp reports whether the remaining parts are not tried.
func (a *alone) givenUp() bool { return a.locked == 2 || !a.accepted && a.refused == atFirst }

// try returns the error of f or, after giving up, the error of the last part tried.
func (a *alone) try(f func() error) error {
	if a.givenUp() {
		return a.err
	}
	a.err = f()
	if sqldb.Locked(a.err) {
		a.locked++
	} else {
		a.locked = 0
	}
	switch {
	case a.err == nil:
		a.accepted = true
	case !sqldb.Unacceptable(a.err):
		a.refused++
	}
	return a.err
}

// publishNow inserts the events in a statement of its own and hands leased runs over. It
// takes more statements only if some events are known.
func (p *PubSub) publishNow(ctx context.Context, events []store.Event) (knownEvents, error) {
	if err := p.subscribeRegistered(ctx); err != nil {
		return nil, nothingWritten(err)
	}
	handover := p.reserve(events)
	unique, others, inserted, err := p.insertNow(ctx, events, handover)
	if err != nil {
		handover.cancel()
		return nil, whatIsKnown(err)
	}
	handover.deliver()
	p.announce(inserted)

	more, known, err := p.insertRepeats(ctx, p.store.DB(), unique, others, inserted)
	if err != nil && len(inserted.IDs) > 0 {
		return nil, maybeWritten(err)
	}
	if err != nil {
		return nil, whatIsKnown(err)
	}
	p.noteDue(events, more)
	p.announce(more)
	p.heardAll(ctx, events, inserted)
	return known, nil
}

// publishLarge inserts, in one transaction, more events than one statement takes. Their
// runs are due, since no handler has that many free slots.
func (p *PubSub) publishLarge(ctx context.Context, events []store.Event, committing *atomic.Bool) (known knownEvents, err error) {
	var inserted queue.Inserted
	err = p.inOneTx(ctx, committing, func(tx *sqlx.Tx) (err error) {
		inserted, known, err = p.insertDue(ctx, tx, events)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.noteDue(events, inserted)
	p.announce(inserted)
	p.heardAll(ctx, events, inserted)
	return known, nil
}

// inOneTx runs write in a READ COMMITTED transaction, and again after a collision with
// other transactions. Its error says what is known about the commit. It sets committing
// when it begins to commit.
func (p *PubSub) inOneTx(ctx context.Context, committing *atomic.Bool, write func(tx *sqlx.Tx) error) error {
	return store.Again(ctx, func() error {
		committing.Store(false)
		return p.inOneTxOnce(ctx, committing, write)
	})
}

func (p *PubSub) inOneTxOnce(ctx context.Context, committing *atomic.Bool, write func(tx *sqlx.Tx) error) error {
	tx, over, err := p.db.Begin(ctx, p.db.TxOptions())
	if err != nil {
		return nothingWritten(err)
	}
	defer over()
	if err := write(tx); err != nil {
		return errors.Join(nothingWritten(err), rollback(tx))
	}
	committing.Store(true)
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", whatIsKnown(err))
	}
	return nil
}

// insertDue inserts the events in a transaction. Their runs are due.
func (p *PubSub) insertDue(ctx context.Context, tx Tx, events []store.Event) (in queue.Inserted, known knownEvents, err error) {
	if err := p.subscribeRegisteredTx(ctx, tx); err != nil {
		return in, nil, err
	}
	events, others, err := queue.Unique(events)
	if err != nil {
		return in, nil, err
	}
	if len(split(events)) > 1 {
		in, err = p.queue.InsertLarge(ctx, tx, events, split)
	} else {
		in, err = p.insert(ctx, tx, events, nil)
	}
	if err != nil {
		return in, nil, err
	}
	more, known, err := p.insertRepeats(ctx, tx, events, others, in)
	in.Due += more.Due
	return in, known, err
}

func rollback(tx *sqlx.Tx) error {
	if err := tx.Rollback(); !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// split divides events into chunks that one statement takes.
func split(events []store.Event) [][]store.Event {
	if len(events) == 0 {
		return nil
	}
	var chunks [][]store.Event
	from, bytes := 0, 0
	for i, e := range events {
		if i > from && (i-from == maxEvents || bytes+len(e.Payload) > maxBytes) {
			chunks = append(chunks, events[from:i])
			from, bytes = i, 0
		}
		bytes += len(e.Payload)
	}
	return append(chunks, events[from:])
}

func size(events []store.Event) int {
	n := 0
	for _, e := range events {
		n += len(e.Payload)
	}
	return n
}
