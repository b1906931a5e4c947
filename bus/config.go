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

// Config sets what a Bus does. A zero field means its default; a value without
// meaning is an error of Open and New that names the field.
type Config struct {
	// DB is the application's pool, for New: PostgreSQL through lib/pq or
	// pgx's database/sql driver, or SQLite. It stays the application's to
	// close. Of a *sqlx.DB, it is the field DB.
	//
	// Open a SQLite file with
	// "file:app.db?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_txlock=immediate".
	// Without these, Reprise waits for its turn to write all the same, and sets
	// a busy timeout on the connections that it uses, but transactions of the
	// application's own may fail with SQLITE_BUSY: New warns of that. It leaves
	// the file's journal mode as it is. A memory database needs
	// SetMaxOpenConns(1), or a cache that the connections share.
	DB *sql.DB

	// Schema holds Reprise's tables; on SQLite it is a prefix of their names.
	// Default "reprise".
	Schema string

	// SkipMigrations leaves the tables alone: where they are not of this
	// program's version, Open and New return a *migrations.VersionError. For
	// teams that call migrations.Up in a step of their own.
	SkipMigrations bool

	// Marshaler makes messages of events and back, and names them: the name is
	// the topic. Default: JSON, named by the event's method EventName.
	Marshaler cqrs.CommandEventMarshaler

	// OnPublish is called for each event of Publish and PublishTx, and OnSend for each
	// command of Send and SendTx, before anything is written: params.Message is what
	// will be published and can be changed, and its Context() is the caller's. With an
	// error nothing of the call is published. Both may be called concurrently.
	OnPublish cqrs.OnEventSendFn
	OnSend    cqrs.CommandBusOnSendFn

	// Middleware wraps every handler, inside the recording, in this order.
	Middleware []message.HandlerMiddleware

	Concurrency    int           // runs of one handler that this process works on at once, unless its policy says; default 16
	MaxConcurrency int           // runs of all handlers at once, though a handler without any may always begin one; default no limit
	PollInterval   time.Duration // between looks for due runs when nothing wakes the bus; default 1 s
	GracePeriod    time.Duration // that running handlers get when Run's context ends; default 10 s

	// HeartbeatInterval is how often this process says that it is alive, and
	// DeadAfter how long it must have been silent, by the database's clock, until
	// others make its runs due again. Both stand in the database: processes with
	// different settings can live together. DeadAfter is at least three times
	// HeartbeatInterval. Default 2 s and 10 s.
	HeartbeatInterval time.Duration
	DeadAfter         time.Duration

	// Transport carries events between processes, such as that of pubsub/kafka:
	// what is published goes to the broker, and what the broker delivers is
	// recorded and handled as ever. Default: the database carries them.
	Transport *pubsub.Transport

	// Topics says something of single topics. An application that names topics
	// here decides on which of them operators may publish; one that names none
	// allows all.
	Topics map[string]Topic

	// SendTimeout is how long the broker of a Transport may take for an event
	// until that goes by the outbox. Default 2 s.
	SendTimeout time.Duration

	// MaxPayload is how many bytes the payload of a published event may have:
	// Publish, PublishTx and InTx refuse a larger one with pubsub.ErrTooLarge. It
	// is kept in memory several times on its way. What a broker delivers is
	// recorded whatever its size. Default 16 MiB.
	MaxPayload int

	// Retention is how long an event is kept after it was published and all its
	// runs have ended; then Run deletes it with its runs. One with a FAILED run
	// stays, until that is replayed, discarded or pruned by hand. One with a
	// DISCARDED run stays as long as the discard can be undone, unless
	// PruneDiscarded says otherwise. What is deleted in a day is one action on
	// record. Default: all stay.
	Retention      time.Duration
	PruneDiscarded bool

	Logger *slog.Logger // default slog.Default()

	// ListenURL is the PostgreSQL URL of a connection of the bus's own, on
	// which it hears at once what other processes publish; without it, the poll
	// finds that. It must not lead through a transaction pooler. Open takes its
	// own URL by default.
	ListenURL string

	// SkipNotify publishes without NOTIFY: PostgreSQL lets only one of the
	// transactions that notify commit at a time. Other processes then find what is
	// published by their poll, within their PollInterval. This process still hears
	// what others notify, where it has a ListenURL.
	SkipNotify bool

	// Unprepared does without prepared statements, which a transaction pooler
	// such as PgBouncer does not keep. The driver, too, must prepare nothing: with
	// lib/pq add binary_parameters=yes to the URL, with pgx
	// default_query_exec_mode=exec.
	Unprepared bool
}

// Topic is what an application says of a topic. A zero field means its default.
type Topic struct {
	// Mode is how its events are published; default the Transport's. Without a
	// Transport it can only be pubsub.ViaDatabase.
	Mode pubsub.Mode

	Manual      bool   // operators may publish on it, from the command line
	Description string // for them: what an event there brings about
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

// Validate reports every field that has no meaning.
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
