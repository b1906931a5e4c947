package bus

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// This file holds what differs between a bus on the database and a bus on a transport.

// connect makes the outbox of the transport and writes the topics' configuration to the
// database, for operators.
func (b *Bus) connect(ctx context.Context) (err error) {
	if b.config.Transport != nil {
		if b.outbox, err = b.pubsub.Outbox(b.config.Transport, b.config.outbox()); err != nil {
			return err
		}
	}
	var name string
	if b.config.Transport != nil {
		name = b.config.Transport.Name
	}
	topics := []store.Topic{{Topic: store.AllTopics, Transport: name, Mode: b.mode(store.AllTopics)}}
	for topic, is := range b.config.Topics {
		topics = append(topics, store.Topic{Topic: topic, Transport: name, Mode: b.mode(topic), Manual: is.Manual, Description: is.Description})
	}
	return b.store.DeclareTopics(ctx, topics)
}

func (b *Bus) mode(topic string) string {
	if b.outbox == nil {
		return string(pubsub.ViaDatabase)
	}
	return string(b.outbox.Mode(topic))
}

func (b *Bus) publisher() message.Publisher {
	if b.outbox == nil {
		return b.pubsub.Publisher()
	}
	return b.outbox.Publisher()
}

func (b *Bus) publisherTx(tx pubsub.Tx) message.Publisher {
	if b.outbox == nil {
		return b.pubsub.PublisherTx(tx)
	}
	return b.outbox.PublisherTx(tx)
}

// subscriber returns the subscriber of a handler's runs, on all its topics.
func (b *Bus) subscriber(name string, policy handlers.Policy) (message.Subscriber, error) {
	t := b.config.Transport
	if t == nil {
		return b.pubsub.RecordedSubscriber(name, policy), nil
	}
	inner, err := t.Subscriber(name)
	if err != nil {
		return nil, fmt.Errorf("handler %q: subscriber of %s: %w", name, t.Name, err)
	}
	return b.pubsub.Inbox(inner, name, policy, pubsub.InboxConfig{Source: t.Name, Identify: t.Identify, Recorded: true})
}
