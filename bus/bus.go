// Package bus wires an application's events to its handlers: it publishes into
// the application's database and runs the handlers from there, every run on
// record.
package bus

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/registry"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// Bus publishes events and runs their handlers. Safe for concurrent use.
type Bus struct {
	config Config
	store  *store.Store
	pubsub *pubsub.PubSub
	outbox *pubsub.Outbox // nil: the database carries the events
	owned  *sql.DB        // the pool, when Open made it

	mu       sync.Mutex
	handlers []registry.Handler
	ran      bool
}

// New returns a bus on the application's own pool, Config.DB, and brings its
// tables up to this program's version. While others lock the tables it waits, until
// ctx ends; any other error of the database is one of New.
func New(ctx context.Context, config Config) (*Bus, error) {
	if config.DB == nil {
		return nil, errors.New("bus: Config.DB is nil: pass the application's *sql.DB, or let bus.Open make a pool from a URL")
	}
	return newBus(ctx, config)
}

func newBus(ctx context.Context, config Config) (*Bus, error) {
	config.setDefaults()
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("bus: config: %w", err)
	}
	// Others may be at work on the tables, such as a process that migrates them.
	// A database that is not there is an error at once.
	health := outage.Outage{What: "preparing the tables", Log: config.Logger}
	whenFree := func(f func() error) error { return health.Until(ctx, time.Second, sqldb.Busy, f) }
	if !config.SkipMigrations {
		if err := whenFree(func() error { return migrations.Up(ctx, config.DB, config.Schema) }); err != nil {
			return nil, fmt.Errorf("bus: %w", err)
		}
	}
	var options []store.Option
	if config.Unprepared {
		options = append(options, store.Unprepared())
	}
	var st *store.Store
	if err := whenFree(func() (err error) {
		st, err = store.New(ctx, config.DB, config.Schema, options...)
		return err
	}); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	if advice := st.Database().Advice(); advice != "" {
		config.Logger.Warn(advice)
	}
	ps, err := pubsub.New(st, config.pubsub())
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	b := &Bus{config: config, store: st, pubsub: ps}
	if err := whenFree(func() error { return b.connect(ctx) }); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	return b, nil
}

// Store returns the record: events, runs and attempts.
func (b *Bus) Store() *store.Store { return b.store }

// DB returns the pool.
func (b *Bus) DB() *sql.DB { return b.config.DB }

// Run runs the handlers until ctx ends. Then nothing new starts, running
// handlers get the grace period, their ends are written, and what has not
// ended is due again. It returns nil after such a shutdown. Run can be called
// once; publishing works before, during and after it.
func (b *Bus) Run(ctx context.Context) error {
	b.mu.Lock()
	if b.ran {
		b.mu.Unlock()
		return errors.New("bus: Run was called before: make a new Bus to run again")
	}
	b.ran = true
	b.mu.Unlock()

	var besides sync.WaitGroup
	besidesCtx, stop := context.WithCancel(ctx)
	if b.config.Retention > 0 {
		besides.Go(func() { b.pruneLoop(besidesCtx) })
	}
	if b.outbox != nil {
		besides.Go(func() { b.outbox.Run(besidesCtx) })
	}
	err := b.route(ctx)
	stop()
	besides.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // a shutdown before everything was up
	}
	if err := errors.Join(err, b.pubsub.Close()); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	return nil
}

// route runs Watermill's router. When ctx ends, the subscribers close their
// channels, and the router waits for the handlers that are running.
func (b *Bus) route(ctx context.Context) error {
	if len(b.handlers) == 0 { // the router would wait for one for ever
		<-ctx.Done()
		return nil
	}
	if err := b.checkPool(); err != nil {
		return err
	}
	router, err := b.router()
	if err != nil {
		return err
	}
	return router.Run(ctx)
}

// spare is how many connections are left to the bus itself, and to handlers
// that use the pool, when every transactional handler has one.
const spare = 4

// checkPool reports a pool that transactional handlers could take whole, so that
// this process would fall silent. SQLite has one writer anyway.
func (b *Bus) checkPool() error {
	most := b.config.DB.Stats().MaxOpenConnections
	if most == 0 || b.store.Database().OneWriter() {
		return nil
	}
	var names []string
	need := spare
	for _, r := range b.handlers {
		if r.Policy.Transactional && !slices.Contains(names, r.Name) {
			names = append(names, r.Name)
			need += cmp.Or(r.Policy.Concurrency, b.config.Concurrency, pubsub.DefaultConcurrency)
		}
	}
	if len(names) == 0 || need <= most {
		return nil
	}
	slices.Sort(names)
	return fmt.Errorf("the pool has at most %d connections, and the transactional handlers %s may hold %d at once, beside the %d that are to be spare: lower their Policy.Concurrency, or allow at least %d with SetMaxOpenConns",
		most, strings.Join(names, ", "), need-spare, spare, need)
}

func (b *Bus) router() (*message.Router, error) {
	router, err := message.NewRouter(
		message.RouterConfig{CloseTimeout: b.config.GracePeriod + 5*time.Second},
		logger(b.config.Logger),
	)
	if err != nil {
		return nil, err
	}
	router.AddMiddleware(settled, middleware.Record(b.store))
	router.AddMiddleware(b.config.Middleware...)
	subscribers := map[string]message.Subscriber{} // by name: the topics of a group share its slots
	for _, r := range b.handlers {
		if subscribers[r.Name] == nil {
			if subscribers[r.Name], err = b.subscriber(r.Name, r.Policy); err != nil {
				return nil, err
			}
		}
		handler := router.AddConsumerHandler(routed(r), r.Topic, subscribers[r.Name], handlers.Func(r.Handler, b.config.Marshaler))
		if timeout := r.Policy.AttemptTimeout(); timeout > 0 {
			handler.AddMiddleware(middleware.Timeout(timeout))
		}
		if r.Policy.Transactional {
			handler.AddMiddleware(middleware.Transaction(b.store, r.Policy.Isolation))
		}
	}
	return router, nil
}

// Close closes the pool that Open made; the pool of New stays open. Call it
// when Run has returned and nothing is published any more.
func (b *Bus) Close() error {
	var err error
	if b.outbox != nil {
		err = b.outbox.Close()
	}
	err = errors.Join(err, b.pubsub.Close())
	if b.owned == nil {
		return err
	}
	// To say farewell to a connection that was lost already is no failure.
	var lost *net.OpError
	if closed := b.owned.Close(); !errors.As(closed, &lost) {
		err = errors.Join(err, closed)
	}
	return err
}
