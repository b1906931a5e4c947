package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

// watermillKafkaPeer is watermill-kafka as it comes, behind a router, one consumer group for each
// handler.
type watermillKafkaPeer struct {
	topic  string
	pub    message.Publisher
	router *message.Router
	db     *sql.DB // of naive, else nil
}

func openWatermillKafka(ctx context.Context, s setup, handle func(context.Context, event) error) (peer, error) {
	return openStockKafka(ctx, s, handle, false)
}

func openStockKafka(ctx context.Context, s setup, handle func(context.Context, event) error, naive bool) (peer, error) {
	log := stockLogger()
	p := &watermillKafkaPeer{topic: s.Topic}
	var err error
	p.pub, err = wkafka.NewPublisher(wkafka.PublisherConfig{Brokers: s.Brokers, Marshaler: wkafka.DefaultMarshaler{}}, log)
	if err != nil {
		return nil, err
	}
	if p.router, err = message.NewRouter(message.RouterConfig{}, log); err != nil {
		return nil, err
	}
	conf := wkafka.DefaultSaramaSubscriberConfig()
	conf.Consumer.Offsets.Initial = sarama.OffsetOldest // its default is what comes after it has subscribed
	for i := range s.Handlers {
		name := fmt.Sprintf("handler-%d", i)
		sub, err := wkafka.NewSubscriber(wkafka.SubscriberConfig{
			Brokers: s.Brokers, Unmarshaler: wkafka.DefaultMarshaler{},
			ConsumerGroup: groupPrefix(s.Topic) + name, OverwriteSaramaConfig: conf,
		}, log)
		if err != nil {
			return nil, err
		}
		p.router.AddConsumerHandler(name, s.Topic, sub, stockHandler(handle))
	}
	if !naive {
		return p, nil
	}
	if p.db, err = sql.Open("postgres", s.URL); err != nil {
		return nil, err
	}
	p.db.SetMaxOpenConns(connections)
	p.db.SetMaxIdleConns(connections)
	return p, recordNaively(ctx, p.router, p.db)
}

func (p *watermillKafkaPeer) Publish(_ context.Context, events []event) error { // its publisher takes no context
	ms, err := stockMessages(events)
	if err != nil {
		return err
	}
	return p.pub.Publish(p.topic, ms...)
}

func (p *watermillKafkaPeer) Start(ctx context.Context) error { return startRouter(ctx, p.router) }

// Unfinished asks for the UPDATEs of naive. Offsets are committed each second, whatever the system.
func (p *watermillKafkaPeer) Unfinished(ctx context.Context) (more bool, err error) {
	if p.db == nil {
		return false, nil
	}
	err = p.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM handler_runs WHERE status = 'PENDING')`).Scan(&more)
	return more, err
}

func (p *watermillKafkaPeer) Close(ctx context.Context) error {
	err := errors.Join(closeRouter(ctx, p.router), p.pub.Close())
	if p.db != nil {
		err = errors.Join(err, p.db.Close())
	}
	return err
}
