package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

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
}

func openWatermill(ctx context.Context, s setup, handle func(context.Context, event) error) (peer, error) {
	return openStock(ctx, s, handle, false)
}

func openStock(ctx context.Context, s setup, handle func(context.Context, event) error, naive bool) (peer, error) {
	db, err := sql.Open("postgres", s.URL)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	log := stockLogger()
	schema := wsql.DefaultPostgreSQLSchema{}
	p := &watermillPeer{db: db}
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
		p.router.AddConsumerHandler(name, topic, sub, stockHandler(handle))
	}
	if naive {
		if err := recordNaively(ctx, p.router, db); err != nil {
			return nil, err
		}
	}
	if s.FailEvery > 0 { // a nack instead would hold the whole group for a second
		p.router.AddMiddleware(middleware.Retry{MaxRetries: 3, InitialInterval: retryAfter, Logger: watermill.NopLogger{}}.Middleware)
	}
	return p, nil
}

func (p *watermillPeer) Publish(_ context.Context, events []event) error { // its publisher takes no context
	ms, err := stockMessages(events)
	if err != nil {
		return err
	}
	return p.pub.Publish(topic, ms...)
}

func (p *watermillPeer) Start(ctx context.Context) error { return startRouter(ctx, p.router) }

// Unfinished asks whether a group's offset is behind the last message, which is when the batch of
// its last handler call is not committed. What naive writes comes before that.
func (p *watermillPeer) Unfinished(ctx context.Context) (more bool, err error) {
	err = p.db.QueryRowContext(ctx, `SELECT EXISTS (
		SELECT FROM watermill_offsets_bench WHERE (last_processed_transaction_id, offset_acked) < (
			SELECT transaction_id, "offset" FROM watermill_bench ORDER BY transaction_id DESC, "offset" DESC LIMIT 1))`).Scan(&more)
	return more, err
}

func (p *watermillPeer) Close(ctx context.Context) error {
	return errors.Join(closeRouter(ctx, p.router), p.pub.Close(), p.db.Close())
}
