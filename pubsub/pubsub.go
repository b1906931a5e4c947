// Package pubsub is a Watermill Pub/Sub over the store. A Publisher writes an event and
// its runs. Each handler has a Subscriber that leases due runs and delivers them as
// messages.
//
//	claimer ──▶ subscription ──▶ Watermill's router ──▶ handler
//	   ▲                                                  │ ack, nack or Delivery.End
//	   └──────── store ◀──────────── finisher ◀───────────┘
//
// A PubSub is one instance: one claimer, one finisher and one heartbeat serve all of its
// handlers.
package pubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/reprise-bus/reprise/internal/brief"
	"github.com/reprise-bus/reprise/internal/database"
	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// farewell is how long Close waits for the database to take the last ends.
const farewell = 10 * time.Second

// DefaultConcurrency is the default of Config.Concurrency: how many runs of one handler a
// process works on at once.
const DefaultConcurrency = 16

// ErrClosed is returned by calls on a closed PubSub.
var ErrClosed = errors.New("the Pub/Sub is closed")

// Config sets how a PubSub works. A zero field means its default.
type Config struct {
	Concurrency       int           // running runs of one handler in this process, unless Policy.Concurrency is set; default 16
	MaxConcurrency    int           // running runs of all handlers in this process, but an idle handler may always begin one; default no limit
	PollInterval      time.Duration // how often to look for due runs when nothing wakes the claimer; default 1 s
	GracePeriod       time.Duration // for running handlers on Close; default 10 s
	HeartbeatInterval time.Duration // default 2 s
	DeadAfter         time.Duration // silence after which other instances take over the runs; default 10 s; at least three times HeartbeatInterval
	MaxPayload        int           // maximum payload of a published message in bytes; default 16 MiB
	Logger            *slog.Logger  // default slog.Default()

	// ListenURL is the PostgreSQL URL of a separate connection, on which the PubSub
	// listens for publishes of other processes. Without it, or behind a transaction
	// pooler, the PubSub finds them by polling.
	ListenURL string

	// SkipNotify publishes without NOTIFY, because PostgreSQL commits transactions that
	// notify one at a time. Other processes then find due runs, and events in the outbox,
	// by polling, within their PollInterval.
	SkipNotify bool
}

func (c *Config) setDefaults() {
	def := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	if c.Concurrency == 0 {
		c.Concurrency = DefaultConcurrency
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = DefaultMaxPayload
	}
	def(&c.PollInterval, time.Second)
	def(&c.GracePeriod, 10*time.Second)
	def(&c.HeartbeatInterval, 2*time.Second)
	def(&c.DeadAfter, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = brief.Logger(c.Logger)
}

// aside returns how long other work may delay a heartbeat.
func (c *Config) aside() time.Duration {
	return max(c.HeartbeatInterval/2, min(c.DeadAfter/10, time.Second))
}

// Validate reports every invalid field.
func (c Config) Validate() error {
	c.setDefaults()
	var errs []error
	if c.Concurrency < 0 {
		errs = append(errs, fmt.Errorf("field Concurrency %d: want at least 1", c.Concurrency))
	}
	if c.MaxConcurrency < 0 {
		errs = append(errs, fmt.Errorf("field MaxConcurrency %d: want at least 1, or 0 for no limit", c.MaxConcurrency))
	}
	if c.MaxPayload < 0 {
		errs = append(errs, fmt.Errorf("field MaxPayload %d: want at least 1 byte", c.MaxPayload))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"PollInterval", c.PollInterval}, {"GracePeriod", c.GracePeriod},
		{"HeartbeatInterval", c.HeartbeatInterval}, {"DeadAfter", c.DeadAfter},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("field %s %v: want a positive duration", d.name, d.value))
		}
	}
	if c.ListenURL != "" {
		if err := database.CheckPostgres(c.ListenURL); err != nil {
			errs = append(errs, fmt.Errorf("field ListenURL: %w", err))
		}
	}
	if c.DeadAfter < 3*c.HeartbeatInterval {
		errs = append(errs, fmt.Errorf("field DeadAfter %v: want at least three times HeartbeatInterval %v, or a live instance is taken for dead", c.DeadAfter, c.HeartbeatInterval))
	}
	return errors.Join(errs...)
}

// PubSub is this process's part in the queue. Safe for concurrent use.
type PubSub struct {
	store     *store.Store
	queue     *queue.Queue
	db        *sqldb.DB
	config    Config
	origin    string // sender id in notices
	finisher  *finisher
	writer    *writer
	notifier  *notifier
	failures  *failures
	unheard   *unheard
	predictor predictor // of published events

	mu         sync.Mutex
	registered map[store.Subscription]*registration
	active     map[store.Subscription][]*subscription // those that deliver
	backlog    map[store.Subscription]int             // subscriptions that may have due runs without a free slot, which nothing overtakes; the value is notes at the last note
	notes      int                                    // number of backlog notes so far
	running    int                                    // slots taken by all subscriptions
	closed     bool
	leftBehind bool   // the last claim probably left runs behind for want of free slots
	surveyed   string // the subscriptions at the last survey
	current    *identity
	former     []*identity // identities that still hold runs after a lost answer

	starting sync.Mutex
	started  bool // guarded by starting
	claiming turn // held while claiming, and while a heartbeat reports the held runs

	claimed atomic.Int64                // time of the last successful claim, in Unix nanoseconds
	refused map[store.Subscription]bool // subscriptions whose claims the database refuses; guarded by claiming

	wake  chan struct{} // something may be due
	nudge chan struct{} // something will be due soon: a caller's transaction
	serve chan struct{} // the served handlers have changed
	relay chan struct{} // the outbox has something to send

	subscriptions sync.WaitGroup     // goroutines of subscriptions
	handovers     sync.WaitGroup     // handovers neither delivered nor cancelled
	loops         sync.WaitGroup     // the loops, such as claimer and heartbeat
	stop          context.CancelFunc // ends the loops
	loopCtx       context.Context
}

// New returns a PubSub over the store. It does nothing until it is used, and runs
// goroutines from the first Subscribe until Close.
func New(st *store.Store, config Config) (*PubSub, error) {
	if st == nil {
		return nil, errors.New("pubsub: the store is nil: make one with store.New")
	}
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("pubsub: config: %w", err)
	}
	config.setDefaults()
	p := &PubSub{
		store:      st,
		queue:      queue.Of(st),
		db:         st.Database(),
		config:     config,
		registered: map[store.Subscription]*registration{},
		active:     map[store.Subscription][]*subscription{},
		backlog:    map[store.Subscription]int{},
		refused:    map[store.Subscription]bool{},
		current:    newIdentity(0),
		claiming:   make(turn, 1),
		wake:       make(chan struct{}, 1),
		nudge:      make(chan struct{}, 1),
		serve:      make(chan struct{}, 1),
		relay:      make(chan struct{}, 1),
	}
	p.origin = p.current.id
	p.finisher = newFinisher(p.queue, p.db, config.Logger, p.ended)
	p.writer = &writer{now: p.publishNow, large: p.publishLarge, log: p.config.Logger}
	p.notifier = p.newNotifier(p.db.Notify)
	p.failures = newFailures(p.config.Logger)
	p.unheard = newUnheard(p.config.Logger)
	p.loopCtx, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// start registers the instance and begins to claim, once.
func (p *PubSub) start(ctx context.Context) error {
	p.starting.Lock()
	defer p.starting.Unlock()
	switch {
	case p.isClosed():
		return ErrClosed
	case p.started:
		return nil
	}
	if err := p.queue.Register(ctx, p.describe(p.identity().id, p.serving())); err != nil {
		return err
	}
	if most := p.store.DB().Stats().MaxOpenConnections; !p.db.OneWriter() && most > 0 && most < connectionsToSpare {
		p.config.Logger.Warn("the pool is too small to keep a connection for heartbeats: statements of the application that take all of it for longer than DeadAfter make this process look dead; allow more with SetMaxOpenConns",
			"connections", most, "want", connectionsToSpare, "dead_after", p.config.DeadAfter)
	}
	p.started = true
	p.claimed.Store(time.Now().UnixNano())
	p.finisher.start()
	p.loops.Go(func() { p.claimLoop(p.loopCtx) })
	p.loops.Go(func() { p.heartbeatLoop(p.loopCtx) })
	p.loops.Go(func() { p.failures.loop(p.loopCtx) })
	if p.config.ListenURL != "" && p.db.Notifies() {
		p.loops.Go(func() { p.listenLoop(p.loopCtx) })
	}
	return nil
}

func (p *PubSub) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// serving returns the subscriptions that have a subscriber here, as the database stores
// them.
func (p *PubSub) serving() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return store.Serving(slices.Collect(maps.Keys(p.active)))
}

// Close stops delivering, gives running handlers the grace period and writes their ends.
// Runs that have not ended are due again. Close returns when all goroutines have ended,
// or with an error after the database has not answered for 10 s. A second Close waits for
// publishes under way. Publishing still works after Close.
func (p *PubSub) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.writer.wait()
		p.notifier.wait()
		return nil
	}
	p.closed = true
	var open []*subscription
	for _, subs := range p.active {
		open = append(open, subs...)
	}
	p.mu.Unlock()
	p.starting.Lock()
	started := p.started
	p.starting.Unlock()

	for _, s := range open {
		s.close()
	}
	p.subscriptions.Wait()
	p.stop()
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if !within(ctx, p.loops.Wait, p.writer.wait, p.notifier.wait) {
		return fmt.Errorf("the database has not answered for %v: what this process holds is due again %v after its last heartbeat", farewell, p.config.DeadAfter)
	}
	if !started {
		return nil
	}
	unwritten := p.finisher.close(ctx)
	if ctx.Err() != nil { // the last statements may still succeed at once
		ctx, cancel = context.WithTimeout(context.Background(), farewell/5)
		defer cancel()
	}
	if !within(ctx, p.handovers.Wait) {
		// While a handover is under way this instance may still get a run, so its row
		// must stay.
		return errors.Join(unwritten, fmt.Errorf("a transaction of InTx is still open: what it publishes runs %v after its commit", p.config.DeadAfter))
	}
	return errors.Join(unwritten, p.leave(ctx))
}

// leave gives back the runs that this process may hold without knowing, and deletes the
// instance, as soon as the database accepts that.
func (p *PubSub) leave(ctx context.Context) error {
	for _, i := range p.identities() {
		pace := outage.Pace(5 * time.Second)
		for {
			err := errors.Join(p.giveBackUnknown(ctx, i), p.queue.Deregister(ctx, i.id))
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(pace.NextBackOff()): // the connection may have been lost a moment ago
			}
		}
	}
	return nil
}

// within reports whether all waits returned before ctx ended. The others continue.
func within(ctx context.Context, waits ...func()) bool {
	done := make(chan struct{})
	go func() {
		for _, wait := range waits {
			wait()
		}
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// turn is a lock; waiting for it ends with a context.
type turn chan struct{}

func (t turn) lock(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) unlock() { <-t }

// signal sends to a channel of capacity 1 and never blocks.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
