// Package bus connects an application's events to its handlers. It publishes into the
// application's database, runs the handlers from there, and records every run.
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

// New returns a bus on the application's own pool, Config.DB, and migrates its tables to
// this program's version. While other processes lock the tables, New waits until ctx
// ends. It returns any other error of the database at once.
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
	// Other processes may be at work on the tables, such as one that migrates them. A
	// database that is away is an error at once.
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

// Store returns the record of events, runs and attempts.
func (b *Bus) Store() *store.Store { return b.store }

// DB returns the bus's pool: Config.DB, or the pool that Open made.
func (b *Bus) DB() *sql.DB { return b.config.DB }

// Run runs the handlers until ctx ends. Then it starts no new run, gives running handlers
// the grace period and writes their ends. Runs that have not ended are due again. Run
// returns nil after such a shutdown. It can be called once. Publishing works before,
// during and after Run.
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
		err = nil // ctx ended before all subscribers were up
	}
	if err := errors.Join(err, b.pubsub.Close()); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	return nil
}

// route runs Watermill's router. When ctx ends, the subscribers close their channels, and
// the router waits for running handlers.
func (b *Bus) route(ctx context.Context) error {
	if len(b.handlers) == 0 { // the router would wait for a handler for ever
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

// spare is how many connections must remain for the bus itself, and for handlers that use
// the pool, when every transactional handler holds one.
const spare = 4

// checkPool reports a pool that transactional handlers could use up, so that this process
// could send no heartbeat. SQLite has one writer in any case.
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
	subscribers := map[string]message.Subscriber{} // by handler name: the topics of a group share its slots
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

// Close closes the pool that Open made; it leaves the pool of New open. Call Close after
// Run has returned and the last publish has ended.
func (b *Bus) Close() error {
	var err error
	if b.outbox != nil {
		err = b.outbox.Close()
	}
	err = errors.Join(err, b.pubsub.Close())
	if b.owned == nil {
		return err
	}
	// An error from closing a connection that was lost already does not count.
	var lost *net.OpError
	if closed := b.owned.Close(); !errors.As(closed, &lost) {
		err = errors.Join(err, closed)
	}
	return err
}
