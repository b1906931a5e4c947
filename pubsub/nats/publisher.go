package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// publisher publishes a message while the server is there. It buffers none.
type publisher struct {
	config Config
	conn   *nats.Conn
	js     jetstream.JetStream
	ready  sync.Map // topics that have a stream
}

func newPublisher(config Config) (message.Publisher, error) {
	conn, js, err := connect(config)
	if err != nil {
		return nil, err
	}
	return &publisher{config: config, conn: conn, js: js}, nil
}

// Publish returns when the server has stored the messages, in order, or with the error of
// the first that it has not stored. Each message may take as long as its context allows,
// or 5 s if the context has no deadline.
func (p *publisher) Publish(topic string, messages ...*message.Message) error {
	for _, msg := range messages {
		if err := p.publish(topic, msg); err != nil {
			return fmt.Errorf("publish on %q to NATS: %w", topic, err)
		}
	}
	return nil
}

func (p *publisher) publish(topic string, msg *message.Message) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	if err := connected(p.conn); err != nil {
		return err
	}
	ctx := msg.Context()
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
	}
	if _, ready := p.ready.Load(topic); !ready {
		if _, err := streamOf(ctx, p.js, p.config, topic); err != nil {
			return err
		}
		p.ready.Store(topic, nil)
	}
	var options []jetstream.PublishOpt
	if p.config.Stream != "" {
		options = append(options, jetstream.WithExpectStream(p.config.Stream))
	}
	_, err := p.js.PublishMsg(ctx, marshal(topic, msg), options...)
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		p.ready.Delete(topic) // the stream is gone; the next publish creates it
	}
	return err
}

// Close closes the connection.
func (p *publisher) Close() error {
	p.conn.Close()
	return nil
}
