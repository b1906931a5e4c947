package reprisetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/registry"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// Bus replaces a *bus.Bus in tests: it has the methods that applications call. It keeps
// published events in memory and runs the handlers before Publish returns, one after the
// other, each by its whole policy except Concurrency, Priority and From. Events that a
// handler publishes with its ctx are delivered after that handler's run. Safe for
// concurrent use.
type Bus struct {
	t        testing.TB
	settings *settings

	mu        sync.Mutex
	handlers  []registry.Handler
	published []store.Event
	payloads  map[store.EventID][]byte // payloads of published events
	commands  map[store.EventID]bool   // commands sent, committed or not
	runs      int64
	failed    []*failedRun
	open      map[*sql.Tx][]store.Event // published in transactions that the bus will commit
}

type failedRun struct {
	run      store.Run
	result   Result
	expected bool
}

// NewBus returns a bus with handlers. Handle can add more. At the end of the test, each
// FAILED run fails the test unless RequireFailed expected it.
func NewBus(t testing.TB, hs ...cqrs.EventHandler) *Bus {
	t.Helper()
	b := &Bus{t: t, settings: newSettings(t, nil), payloads: map[store.EventID][]byte{}, commands: map[store.EventID]bool{}, open: map[*sql.Tx][]store.Event{}}
	b.settings.begin = b.begin
	if err := b.Handle(hs...); err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(b.reportFailed)
	return b
}

// With sets options and returns the bus. Call it before Handle and Publish.
func (b *Bus) With(options ...Option) *Bus {
	b.t.Helper()
	b.settings.apply(b.t, options)
	return b
}

// Handle registers handlers, as bus.Bus does. They get events published from then on.
func (b *Bus) Handle(hs ...cqrs.EventHandler) error {
	fresh, err := registry.Events(hs)
	return b.register(fresh, err)
}

// HandleCommands registers handlers of commands, one for each command, as bus.Bus does.
func (b *Bus) HandleCommands(hs ...cqrs.CommandHandler) error {
	fresh, err := registry.Commands(hs)
	return b.register(fresh, err)
}

// HandleGroup registers handlers of several types of events under one name, as bus.Bus
// does.
func (b *Bus) HandleGroup(name string, policy handlers.Policy, members ...cqrs.GroupEventHandler) error {
	fresh, err := registry.Group(name, policy, members)
	return b.register(fresh, err)
}

func (b *Bus) register(fresh []registry.Handler, failed error) error {
	if failed != nil {
		return fmt.Errorf("reprisetest: %w", failed)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	all, err := registry.Add(b.handlers, fresh, b.settings.marshaler, func(h registry.Handler) error {
		if err := h.Policy.Validate(); err != nil {
			return fmt.Errorf("policy: %w", err)
		}
		return store.Subscription{Topic: h.Topic, Handler: h.Name}.Validate()
	})
	if err != nil {
		return fmt.Errorf("reprisetest: %w", err)
	}
	b.handlers = all
	return nil
}

// Publish publishes all events or none, and runs their handlers. As with bus.Bus, a
// failing handler is no error of Publish. Publish returns an error for a handler that
// cannot run here: a transactional handler without a database, or a handler whose runs do
// not end.
func (b *Bus) Publish(ctx context.Context, events ...any) error {
	return b.publish(ctx, b.settings.events(), events)
}

// Send publishes a command for its one handler, as Publish does events. A command without
// a handler is kept, as on the bus; see Sent.
func (b *Bus) Send(ctx context.Context, command any) error {
	return b.publish(ctx, b.settings.commands(), []any{command})
}

func (b *Bus) publish(ctx context.Context, as making, published []any) error {
	if b.settings.wouldWaitForItself(ctx) {
		return errWaitForItself
	}
	return b.publishIn(ctx, nil, as, published)
}

// PublishTx publishes in a transaction. In a transaction of InTx or of a transactional
// handler, the events exist, and are delivered, when that is committed. The bus does not
// see the end of any other transaction: the events are delivered at once.
func (b *Bus) PublishTx(ctx context.Context, tx pubsub.Tx, events ...any) error {
	return b.publishTx(ctx, tx, b.settings.events(), events)
}

// SendTx publishes a command in a transaction, as PublishTx does events.
func (b *Bus) SendTx(ctx context.Context, tx pubsub.Tx, command any) error {
	return b.publishTx(ctx, tx, b.settings.commands(), []any{command})
}

func (b *Bus) publishTx(ctx context.Context, tx pubsub.Tx, as making, published []any) error {
	own, ok := sqlTx(tx)
	if !ok {
		return errors.New("reprisetest: the transaction is nil: pass the *sql.Tx or *sqlx.Tx that is open")
	}
	return b.publishIn(ctx, own, as, published)
}

func (b *Bus) publishIn(ctx context.Context, tx *sql.Tx, as making, published []any) error {
	accepted, err := b.accept(ctx, tx, as, published)
	if err != nil {
		return fmt.Errorf("reprisetest: publish: %w", err)
	}
	return b.deliver(ctx, accepted)
}

// InTx runs f in a transaction on the database of WithDB and commits it. It rolls back
// when f returns an error or panics, as bus.Bus does.
func (b *Bus) InTx(ctx context.Context, f func(tx *bus.Tx) error) error {
	if b.settings.db == nil {
		return errors.New("reprisetest: InTx needs a database: give the bus one by With(reprisetest.WithDB(db))")
	}
	if b.settings.wouldWaitForItself(ctx) {
		return errWaitForItself
	}
	return b.begin(ctx, nil, func(tx *sqlx.Tx) error { return f(&bus.Tx{Tx: tx}) })
}

// begin runs f in a transaction, and delivers the events published in it after the
// commit.
func (b *Bus) begin(ctx context.Context, options *sql.TxOptions, f func(tx *sqlx.Tx) error) error {
	var begun *sql.Tx
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.open, begun)
	}()
	if err := b.settings.inTx(ctx, options, func(tx *sqlx.Tx) error {
		begun = tx.Tx
		b.mu.Lock()
		b.open[begun] = []store.Event{}
		b.mu.Unlock()
		return f(tx)
	}); err != nil {
		return err
	}
	b.mu.Lock()
	committed := b.keep(b.open[begun])
	b.mu.Unlock()
	return b.deliver(ctx, committed)
}

// sqlTx returns the *sql.Tx by which the bus identifies a transaction, and whether there
// is a transaction.
func sqlTx(tx pubsub.Tx) (own *sql.Tx, ok bool) {
	switch tx := tx.(type) {
	case nil:
		return nil, false
	case *sql.Tx:
		return tx, tx != nil
	case *sqlx.Tx:
		if tx == nil {
			return nil, false
		}
		return tx.Tx, tx.Tx != nil
	case *bus.Tx:
		if tx == nil {
			return nil, false
		}
		return sqlTx(tx.Tx)
	default: // the test's own type
		return nil, true
	}
}

// accept makes events of what is published, and returns those that exist from now on.
// Events published in a transaction that the bus will commit do not exist yet.
func (b *Bus) accept(ctx context.Context, tx *sql.Tx, as making, published []any) ([]store.Event, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w; nothing was published", context.Cause(ctx))
	}
	var events []store.Event
	for _, p := range published {
		e, err := b.settings.event(ctx, as, p)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	events, err := queue.Together(events)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range events {
		if payload, known := b.payloads[e.EventID()]; known && !bytes.Equal(payload, e.Payload) {
			return nil, fmt.Errorf("event %q of topic %q: %w, with another payload: give each event an id of its own", e.ID, e.Topic, store.ErrDuplicateID)
		}
	}
	if as.command {
		for _, e := range events {
			b.commands[e.EventID()] = true
		}
	}
	held, own := b.open[tx]
	if !own {
		return b.keep(events), nil
	}
	if held, err = queue.Together(slices.Concat(held, events)); err != nil {
		return nil, err
	}
	b.open[tx] = held
	return nil, nil
}

// keep returns the events that are new, and stores them. mu must be held.
func (b *Bus) keep(events []store.Event) (fresh []store.Event) {
	for _, e := range events {
		if _, known := b.payloads[e.EventID()]; !known {
			b.payloads[e.EventID()] = e.Payload
			b.published = append(b.published, e)
			fresh = append(fresh, e)
		}
	}
	return fresh
}

// deliver runs the handlers of the events, and of the events that these handlers publish
// in turn. Inside a handler of this bus, the caller of that handler does it.
func (b *Bus) deliver(ctx context.Context, events []store.Event) error {
	if outer, ok := ctx.Value(deliveriesKey{b}).(*deliveries); ok && outer.add(events) {
		return nil
	}
	waiting := &deliveries{events: events}
	// As in production, handlers get no values of the publisher's context.
	ctx = context.WithValue(context.WithoutCancel(b.t.Context()), deliveriesKey{b}, waiting)
	for n := 0; ; n++ {
		e, ok := waiting.next()
		switch {
		case !ok:
			return nil
		case n == endless:
			return fmt.Errorf("reprisetest: %d events were published by handlers because of one, and there is no end: the last is %q", endless, e.Topic)
		}
		if err := b.handle(ctx, e); err != nil {
			return fmt.Errorf("reprisetest: %w", err)
		}
	}
}

func (b *Bus) handle(ctx context.Context, e store.Event) error {
	b.mu.Lock()
	hs := b.handlers
	b.mu.Unlock()
	for _, h := range hs {
		if b.settings.marshaler.Name(h.Handler.NewEvent()) != e.Topic {
			continue
		}
		b.mu.Lock()
		b.runs++
		run := newRun(b.runs, h.Handler, e)
		b.mu.Unlock()
		result, err := b.settings.course(ctx, h.Handler, h.Policy, e, run)
		if err != nil {
			return err
		}
		if result.Status == store.Failed {
			b.mu.Lock()
			b.failed = append(b.failed, &failedRun{run: run, result: result})
			b.mu.Unlock()
		}
	}
	return nil
}

// deliveries holds the events still to be delivered because of one Publish.
type deliveries struct {
	mu     sync.Mutex
	events []store.Event
	over   bool
}

type deliveriesKey struct{ bus *Bus }

// add reports whether the events will be delivered. They will not if a goroutine that
// outlived its handler publishes them after the delivery has ended.
func (d *deliveries) add(events []store.Event) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return false
	}
	d.events = append(d.events, events...)
	return true
}

func (d *deliveries) next() (e store.Event, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.events) == 0 {
		d.over = true
		return e, false
	}
	e, d.events = d.events[0], d.events[1:]
	return e, true
}
