package bus

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/brief"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// Config sets how a Bus works. A zero field means its default. For an invalid value, Open
// and New return an error that names the field.
type Config struct {
	// DB is the application's pool, for New: PostgreSQL through lib/pq or pgx's
	// database/sql driver, or SQLite. For a *sqlx.DB, pass its field DB. The bus does not
	// close it.
	//
	// Open a SQLite file with
	// "file:app.db?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_txlock=immediate".
	// Without these settings Reprise still waits for its turn to write, and sets a busy
	// timeout on the connections that it uses. The application's own transactions may
	// then fail with SQLITE_BUSY; New logs a warning. Reprise never changes the file's
	// journal mode. An in-memory database needs SetMaxOpenConns(1), or a cache that the
	// connections share.
	DB *sql.DB

	// Schema is the PostgreSQL schema of Reprise's tables. On SQLite it is a prefix of
	// the table names. Default "reprise".
	Schema string

	// SkipMigrations leaves the tables as they are, for applications that call
	// migrations.Up in a step of their own. If the tables are not of this program's
	// version, Open and New return a *migrations.VersionError.
	SkipMigrations bool

	// Marshaler converts events to messages and back, and names the events. The name is
	// the topic. Default: JSON, with the name from the event's method EventName.
	Marshaler cqrs.CommandEventMarshaler

	// OnPublish is called for each event of Publish and PublishTx, OnSend for each
	// command of Send and SendTx, before anything is written. params.Message is the
	// message to be published; the function may change it. Its Context() is the caller's.
	// If the function returns an error, the call publishes nothing. Both functions may be
	// called concurrently.
	OnPublish cqrs.OnEventSendFn
	OnSend    cqrs.CommandBusOnSendFn

	// Middleware wraps every handler, inside middleware.Record. The first is the
	// outermost.
	Middleware []message.HandlerMiddleware

	Concurrency    int           // running runs of one handler in this process, unless Policy.Concurrency is set; default 16
	MaxConcurrency int           // running runs of all handlers in this process, but an idle handler may always begin one; default no limit
	PollInterval   time.Duration // how often to look for due runs when nothing wakes the bus; default 1 s
	GracePeriod    time.Duration // for running handlers after Run's context has ended; default 10 s

	// HeartbeatInterval is the time between two heartbeats of this process; default 2 s.
	// After DeadAfter without a heartbeat, by the database's clock, other processes make
	// its runs due again; default 10 s. DeadAfter must be at least three times
	// HeartbeatInterval. Both are stored in the database, so processes with different
	// settings can work together.
	HeartbeatInterval time.Duration
	DeadAfter         time.Duration

	// Transport carries events between processes through a broker, such as the one of
	// pubsub/kafka. Published events go to the broker. Delivered events are recorded and
	// handled as usual. Default: the database carries the events.
	Transport *pubsub.Transport

	// Topics configures single topics. If it is empty, operators may publish on every
	// topic. Otherwise they may publish only on topics with Manual.
	Topics map[string]Topic

	// SendTimeout is how long the broker of a Transport may take for one event. After
	// that the event goes into the outbox. Default 2 s.
	SendTimeout time.Duration

	// MaxPayload is the maximum size of a published payload in bytes. Publish, PublishTx
	// and InTx refuse a larger one with pubsub.ErrTooLarge. A payload is copied in memory
	// several times on its way. Messages that a broker delivers are recorded whatever
	// their size. Default 16 MiB.
	MaxPayload int

	// Retention is how long an event is kept after it was published. Run then deletes the
	// event and its runs, once all of them have ended. An event with a FAILED run stays
	// until the run is replayed, discarded or pruned by hand. An event with a DISCARDED
	// run stays as long as the discard can be undone, unless PruneDiscarded is true. The
	// deletions of one day are one action on record. Default: all events stay.
	Retention      time.Duration
	PruneDiscarded bool

	Logger *slog.Logger // default slog.Default()

	// ListenURL is the PostgreSQL URL of a separate connection, on which the bus listens
	// for publishes of other processes. Without it, the bus finds them by polling. It
	// must not lead through a transaction pooler. Default: the URL given to Open; with
	// New, none.
	ListenURL string

	// SkipNotify publishes without NOTIFY, because PostgreSQL commits transactions that
	// notify one at a time. Other processes then find published events by polling, within
	// their PollInterval. If ListenURL is set, this process still receives the notices of
	// other processes.
	SkipNotify bool

	// Unprepared avoids prepared statements, which a transaction pooler such as PgBouncer
	// does not keep. The driver must prepare none either: with lib/pq add
	// binary_parameters=yes to the URL, with pgx default_query_exec_mode=exec.
	Unprepared bool
}

// Topic is the configuration of one topic. A zero field means its default.
type Topic struct {
	// Mode is how events of the topic are published; default the Transport's mode.
	// Without a Transport only pubsub.ViaDatabase is allowed.
	Mode pubsub.Mode

	Manual      bool   // operators may publish on the topic from the command line
	Description string // shown to operators: the effect of an event on the topic
}

func (c *Config) setDefaults() {
	if c.Marshaler == nil {
		c.Marshaler = handlers.JSON()
	}
	if c.GracePeriod == 0 {
		c.GracePeriod = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = brief.Logger(c.Logger)
}

// Validate reports every invalid field.
func (c Config) Validate() error {
	errs := []error{c.pubsub().Validate()}
	if c.Retention < 0 {
		errs = append(errs, fmt.Errorf("field Retention %v: want a positive duration, or 0 to keep everything", c.Retention))
	}
	if c.Transport != nil {
		if err := c.Transport.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("field Transport: %w", err))
		}
	}
	if err := c.outbox().Validate(); err != nil {
		errs = append(errs, err)
	}
	for name, topic := range c.Topics {
		if err := store.ValidTopic(name); err != nil {
			errs = append(errs, fmt.Errorf("field Topics: %w", err))
		}
		if c.Transport == nil && topic.Mode != "" && topic.Mode != pubsub.ViaDatabase {
			errs = append(errs, fmt.Errorf("field Topics[%q]: mode %q without a Transport: set one, or leave the mode out", name, topic.Mode))
		}
	}
	for i, m := range c.Middleware {
		if m == nil {
			errs = append(errs, fmt.Errorf("field Middleware[%d] is nil", i))
		}
	}
	return errors.Join(errs...)
}

func (c Config) outbox() pubsub.OutboxConfig {
	modes := make(map[string]pubsub.Mode, len(c.Topics))
	for name, topic := range c.Topics {
		modes[name] = topic.Mode
	}
	return pubsub.OutboxConfig{Topics: modes, SendTimeout: c.SendTimeout}
}

func (c Config) pubsub() pubsub.Config {
	return pubsub.Config{
		Concurrency:       c.Concurrency,
		MaxConcurrency:    c.MaxConcurrency,
		PollInterval:      c.PollInterval,
		GracePeriod:       c.GracePeriod,
		HeartbeatInterval: c.HeartbeatInterval,
		DeadAfter:         c.DeadAfter,
		MaxPayload:        c.MaxPayload,
		Logger:            c.Logger,
		ListenURL:         c.ListenURL,
		SkipNotify:        c.SkipNotify,
	}
}
