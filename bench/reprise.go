package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/lib/pq"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/pubsub/kafka"
)

// reprisePeer is the bus as an application uses it, on a pool of its own.
type reprisePeer struct {
	db     *sql.DB
	bus    *bus.Bus
	oldest int64 // runs before it are history

	stop  context.CancelFunc
	ended chan error // of Run; nil before Start
}

func openReprise(ctx context.Context, s setup, handle func(context.Context, event) error) (peer, error) {
	db, err := sql.Open("postgres", s.URL)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	conf := bus.Config{
		DB:          db,
		Concurrency: 2000,
		GracePeriod: closing / 2,
		ListenURL:   s.URL,
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if s.Defaults {
		conf.Concurrency = 0
	}
	if s.Concurrency > 0 {
		conf.Concurrency = s.Concurrency
	}
	if len(s.Brokers) > 0 {
		conf.Transport, err = kafka.New(kafka.Config{Brokers: s.Brokers, GroupPrefix: groupPrefix(s.Topic), Logger: conf.Logger})
		if err != nil {
			return nil, err
		}
		conf.Marshaler = onTopic{handlers.JSON(), s.Topic}
	}
	b, err := bus.New(ctx, conf)
	if err != nil {
		return nil, err
	}
	policy := handlers.Policy{Backoff: handlers.Backoff{Initial: retryAfter}}
	for i := range s.Handlers {
		if err := b.Handle(handlers.New(fmt.Sprintf("handler-%d", i), handle, policy)); err != nil {
			return nil, err
		}
	}
	p := &reprisePeer{db: db, bus: b}
	err = db.QueryRowContext(ctx, `SELECT coalesce(
		(SELECT min(id) FROM reprise.handler_runs WHERE due_at IS NOT NULL),
		(SELECT max(id) + 1 FROM reprise.handler_runs), 0)`).Scan(&p.oldest)
	return p, err
}

// openWithoutBroker is the bus whose events the database carries.
func openWithoutBroker(ctx context.Context, s setup, handle func(context.Context, event) error) (peer, error) {
	s.Brokers = nil
	return openReprise(ctx, s, handle)
}

// onTopic has all events on one topic, which is a trial's own.
type onTopic struct {
	cqrs.CommandEventMarshaler
	topic string
}

func (m onTopic) Name(any) string                         { return m.topic }
func (m onTopic) NameFromMessage(*message.Message) string { return m.topic }

func (p *reprisePeer) Publish(ctx context.Context, events []event) error {
	anys := make([]any, len(events))
	for i, e := range events {
		anys[i] = e
	}
	return p.bus.Publish(ctx, anys...)
}

func (p *reprisePeer) Start(ctx context.Context) error {
	ctx, p.stop = context.WithCancel(ctx)
	p.ended = make(chan error, 1)
	go func() { p.ended <- p.bus.Run(ctx) }()
	return nil
}

func (p *reprisePeer) Unfinished(ctx context.Context) (more bool, err error) {
	select {
	case err := <-p.ended:
		p.ended <- err
		return false, errors.Join(errors.New("the bus has ended"), err)
	default:
	}
	err = p.db.QueryRowContext(ctx, `SELECT EXISTS (
		SELECT FROM reprise.handler_runs WHERE id >= $1 AND status = 'PENDING')`, p.oldest).Scan(&more)
	return more, err
}

func (p *reprisePeer) Close(ctx context.Context) error {
	var err error
	if p.stop != nil {
		p.stop()
		select {
		case err = <-p.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(err, p.bus.Close(), p.db.Close())
}
