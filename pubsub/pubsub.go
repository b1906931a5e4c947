// Package pubsub is a Watermill Pub/Sub over the store: a Publisher that
// writes an event and its runs, and a Subscriber for each handler that leases
// due runs and delivers them as messages.
//
//	claimer ──▶ subscription ──▶ Watermill's router ──▶ handler
//	   ▲                                                  │ ack, nack or Delivery.End
//	   └──────── store ◀──────────── finisher ◀───────────┘
//
// A PubSub is one instance: one claimer, one finisher and one heartbeat serve
// all of its handlers.
package pubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// ErrClosed is returned by what is called on a closed PubSub.
var ErrClosed = errors.New("the Pub/Sub is closed")

// Config sets what a PubSub does. A zero field means its default.
type Config struct {
	Concurrency       int           // runs of one handler that this process works on at once; default 16
	PollInterval      time.Duration // between looks for due runs when nothing wakes the claimer; default 1 s
	ResendInterval    time.Duration // until a nacked message is delivered again; default 1 s
	GracePeriod       time.Duration // that running handlers get on Close; default 10 s
	HeartbeatInterval time.Duration // default 2 s
	DeadAfter         time.Duration // of silence until another instance takes over the runs; default 10 s
	Logger            *slog.Logger  // default slog.Default()
}

func (c *Config) setDefaults() {
	def := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	if c.Concurrency == 0 {
		c.Concurrency = 16
	}
	def(&c.PollInterval, time.Second)
	def(&c.ResendInterval, time.Second)
	def(&c.GracePeriod, 10*time.Second)
	def(&c.HeartbeatInterval, 2*time.Second)
	def(&c.DeadAfter, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
}

// Validate reports every field that has no meaning.
func (c Config) Validate() error {
	c.setDefaults()
	var errs []error
	if c.Concurrency < 0 {
		errs = append(errs, fmt.Errorf("Concurrency %d: want at least 1", c.Concurrency))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"PollInterval", c.PollInterval}, {"ResendInterval", c.ResendInterval}, {"GracePeriod", c.GracePeriod},
		{"HeartbeatInterval", c.HeartbeatInterval}, {"DeadAfter", c.DeadAfter},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("%s %v: want a positive duration", d.name, d.value))
		}
	}
	if c.DeadAfter < 3*c.HeartbeatInterval {
		errs = append(errs, fmt.Errorf("DeadAfter %v: want at least three times HeartbeatInterval %v, or a live instance is taken for dead", c.DeadAfter, c.HeartbeatInterval))
	}
	return errors.Join(errs...)
}

// PubSub is this process's part in the queue. Safe for concurrent use.
type PubSub struct {
	store    *store.Store
	config   Config
	instance string
	finisher *finisher

	mu         sync.Mutex
	registered map[store.Subscription]bool            // known here; true once it is in the database
	active     map[store.Subscription][]*subscription // delivering
	closed     bool
	hungry     bool // the last claim left runs behind for want of free slots, as far as one can tell
	held       leases

	starting sync.Mutex
	started  bool       // starting is held
	leasing  sync.Mutex // no claim is under way while the heartbeat says what is held

	wake  chan struct{} // something may be due
	nudge chan struct{} // something will be due soon: a caller's transaction

	subscriptions sync.WaitGroup     // goroutines of subscriptions
	loops         sync.WaitGroup     // claimer, heartbeat
	stop          context.CancelFunc // ends the loops
	loopCtx       context.Context
}

// New returns a PubSub over the store. It does nothing until it is used, and
// runs goroutines from the first Subscribe until Close.
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
		config:     config,
		instance:   store.NewInstanceID(),
		registered: map[store.Subscription]bool{},
		active:     map[store.Subscription][]*subscription{},
		held:       leases{runs: map[int64]int{}},
		wake:       make(chan struct{}, 1),
		nudge:      make(chan struct{}, 1),
	}
	p.finisher = newFinisher(st, config.Logger, p.forget)
	p.loopCtx, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// Register makes a handler of this process known without subscribing it yet.
// Its subscription is in the database before the next publish of this PubSub
// returns, so that no event from then on is missed.
func (p *PubSub) Register(topic, handler string) error {
	sub := store.Subscription{Topic: topic, Handler: handler}
	if err := sub.Validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.registered[sub]; !known {
		p.registered[sub] = false
	}
	return nil
}

// subscribeRegistered puts what is registered into the database. Inside a
// transaction that may yet be rolled back it does not count as done.
func (p *PubSub) subscribeRegistered(ctx context.Context, q store.Execer, tx bool) error {
	p.mu.Lock()
	var missing []store.Subscription
	for sub, done := range p.registered {
		if !done {
			missing = append(missing, sub)
		}
	}
	p.mu.Unlock()
	if len(missing) == 0 {
		return nil
	}
	// One order everywhere: two processes must not lock the rows crosswise.
	slices.SortFunc(missing, store.Subscription.Compare)
	if err := p.store.Subscribe(ctx, q, missing...); err != nil || tx {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sub := range missing {
		p.registered[sub] = true
	}
	return nil
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
	if err := p.store.Register(ctx, p.describe(p.serving())); err != nil {
		return err
	}
	p.started = true
	p.finisher.start()
	p.loops.Go(func() { p.claimLoop(p.loopCtx) })
	p.loops.Go(func() { p.heartbeatLoop(p.loopCtx) })
	return nil
}

func (p *PubSub) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// serving returns the names of the handlers that have a subscriber here.
func (p *PubSub) serving() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make([]string, 0, len(p.active))
	for sub := range p.active {
		names = append(names, sub.Handler)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Close stops delivering, gives running handlers the grace period, writes how
// they ended, and makes due again what did not end. It returns when all
// goroutines have ended. A second Close returns at once.
func (p *PubSub) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
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
	p.loops.Wait()
	if !started {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.config.GracePeriod)
	defer cancel()
	return errors.Join(p.finisher.close(ctx), p.store.Deregister(ctx, p.instance))
}

// signal sends to a channel of capacity one, which never blocks.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
