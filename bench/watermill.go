package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	_ "github.com/lib/pq"
)

// watermillPeer is watermill-sql as it comes, behind a router, one consumer group for each handler.
type watermillPeer struct {
	db     *sql.DB
	pub    message.Publisher
	router *message.Router
	naive  bool
}

func openWatermill(ctx context.Context, s setup, handle func(context.Context, event) error) (peer, error) {
	return openStock(ctx, s, handle, false)
}

// openNaive is what a team writes first when it wants a record of every handler run: a middleware
// with an INSERT before the handler and an UPDATE after it.
func openNaive(ctx context.Context, s setup, handle func(context.Context, event) error) (peer, error) {
	return openStock(ctx, s, handle, true)
}

const naiveTable = `CREATE TABLE IF NOT EXISTS handler_runs (
	id          bigserial PRIMARY KEY,
	event       uuid,
	handler     text,
	status      text,
	payload     jsonb,
	error       text,
	started_at  timestamptz DEFAULT now(),
	finished_at timestamptz
)`

func openStock(ctx context.Context, s setup, handle func(context.Context, event) error, naive bool) (peer, error) {
	db, err := sql.Open("postgres", s.URL)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	if naive {
		if _, err := db.ExecContext(ctx, naiveTable); err != nil {
			return nil, err
		}
	}
	log := watermill.NewSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	schema := wsql.DefaultPostgreSQLSchema{}
	p := &watermillPeer{db: db, naive: naive}
	p.pub, err = wsql.NewPublisher(db, wsql.PublisherConfig{SchemaAdapter: schema, AutoInitializeSchema: true}, log)
	if err != nil {
		return nil, err
	}
	if p.router, err = message.NewRouter(message.RouterConfig{}, log); err != nil {
		return nil, err
	}
	for i := range s.Handlers {
		name := fmt.Sprintf("handler-%d", i)
		sub, err := wsql.NewSubscriber(db, wsql.SubscriberConfig{
			ConsumerGroup: name, SchemaAdapter: schema,
			OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{}, InitializeSchema: true,
		}, log)
		if err != nil {
			return nil, err
		}
		if err := sub.SubscribeInitialize(topic); err != nil {
			return nil, err
		}
		p.router.AddConsumerHandler(name, topic, sub, func(m *message.Message) error {
			var e event
			if err := json.Unmarshal(m.Payload, &e); err != nil {
				return err
			}
			return handle(m.Context(), e)
		})
	}
	if naive {
		p.router.AddMiddleware(p.record)
	}
	if s.FailEvery > 0 { // a nack instead would hold the whole group for a second
		p.router.AddMiddleware(middleware.Retry{MaxRetries: 3, InitialInterval: retryAfter, Logger: watermill.NopLogger{}}.Middleware)
	}
	return p, nil
}

func (p *watermillPeer) record(next message.HandlerFunc) message.HandlerFunc {
	return func(m *message.Message) ([]*message.Message, error) {
		var id int64
		err := p.db.QueryRow(`INSERT INTO handler_runs (event, handler, status, payload) VALUES ($1, $2, 'PENDING', $3) RETURNING id`,
			m.UUID, message.HandlerNameFromCtx(m.Context()), string(m.Payload)).Scan(&id)
		if err != nil {
			return nil, err
		}
		out, err := next(m)
		if err != nil {
			_, late := p.db.Exec(`UPDATE handler_runs SET status = 'FAILED', error = $2, finished_at = now() WHERE id = $1`, id, err.Error())
			return nil, errors.Join(err, late)
		}
		_, err = p.db.Exec(`UPDATE handler_runs SET status = 'SUCCESS', finished_at = now() WHERE id = $1`, id)
		return out, err
	}
}

func (p *watermillPeer) Publish(_ context.Context, events []event) error { // its publisher takes no context
	ms := make([]*message.Message, len(events))
	for i, e := range events {
		body, err := json.Marshal(e)
		if err != nil {
			return err
		}
		ms[i] = message.NewMessage(watermill.NewUUID(), body)
	}
	return p.pub.Publish(topic, ms...)
}

func (p *watermillPeer) Start(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- p.router.Run(ctx) }()
	select {
	case <-p.router.Running():
		return nil
	case err := <-ended:
		return errors.Join(errors.New("the router has ended"), err)
	}
}

// Unfinished asks whether a group's offset is behind the last message, which is when the batch of
// its last handler call is not committed. What naive writes comes before that.
func (p *watermillPeer) Unfinished(ctx context.Context) (more bool, err error) {
	err = p.db.QueryRowContext(ctx, `SELECT EXISTS (
		SELECT FROM watermill_offsets_bench WHERE (last_processed_transaction_id, offset_acked) < (
			SELECT transaction_id, "offset" FROM watermill_bench ORDER BY transaction_id DESC, "offset" DESC LIMIT 1))`).Scan(&more)
	return more, err
}

func (p *watermillPeer) Close(ctx context.Context) error {
	closed := make(chan error, 1)
	go func() { closed <- p.router.Close() }()
	var err error
	select {
	case err = <-closed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, p.pub.Close(), p.db.Close())
}
