package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// streamOf returns the name of the topic's stream. It creates the stream if there is
// none.
func streamOf(ctx context.Context, js jetstream.JetStream, c Config, topic string) (string, error) {
	if c.Stream != "" {
		return c.Stream, nil
	}
	name, err := js.StreamNameBySubject(ctx, topic)
	switch {
	case err == nil:
		return name, nil
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return "", fmt.Errorf("look for the stream of %q: %w", topic, err)
	case c.NoProvision:
		return "", fmt.Errorf("no stream has the subject %q: make one, or do without NoProvision", topic)
	}
	name = named(topic)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{topic}}); err != nil {
		return "", fmt.Errorf("make the stream %q of %q: %w", name, topic, err)
	}
	return name, nil
}

// consumerOf returns the consumer of a handler and a topic. It creates the consumer if
// there is none.
func consumerOf(ctx context.Context, js jetstream.JetStream, c Config, handler, topic string) (jetstream.Consumer, error) {
	stream, err := streamOf(ctx, js, c, topic)
	if err != nil {
		return nil, err
	}
	name := c.GroupPrefix + handler
	if stream != named(topic) {
		name += "." + topic
	}
	name = named(name)
	consumer, err := js.Consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		consumer, err = js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable:       name,
			FilterSubject: topic,
			DeliverPolicy: jetstream.DeliverAllPolicy,
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       cmp.Or(c.AckWait, 30*time.Second),
			MaxAckPending: 10_000, // of all processes; messages of a dead process count until AckWait is over
		})
	}
	if err != nil {
		return nil, fmt.Errorf("the consumer %q of the stream %q: %w", name, stream, err)
	}
	config := consumer.CachedInfo().Config
	if config.FilterSubject != topic {
		return nil, fmt.Errorf("the consumer %q of the stream %q gets %q, not %q: delete it, or use another GroupPrefix", name, stream, config.FilterSubject, topic)
	}
	if c.AckWait != 0 && c.AckWait != config.AckWait {
		config.AckWait = c.AckWait
		return js.UpdateConsumer(ctx, stream, config)
	}
	return consumer, nil
}
