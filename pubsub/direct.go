package pubsub

import (
	"context"
	"fmt"
	"maps"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// direct sends an event to the broker. If that fails, or the topic is diverted, it writes
// the event into the outbox.
func (o *Outbox) direct(ctx context.Context, e store.Event) error {
	written, err := o.enter(ctx, e.Topic)
	if err != nil {
		return err
	}
	if written != nil {
		defer written()
		return o.writer.publish(ctx, []store.Event{e})
	}
	err = o.send(ctx, e)
	switch {
	case err == nil:
		return nil
	case o.refused(err):
		return nothingWritten(fmt.Errorf("the broker refuses the event: %w", err))
	case ctx.Err() != nil:
		return maybeWritten(context.Cause(ctx))
	}
	defer o.divert(e.Topic)()
	if written := o.writer.publish(ctx, []store.Event{e}); written != nil {
		return fmt.Errorf("neither the broker takes the event (%w) nor the outbox (%w); %w", err, written, ErrMaybeWritten)
	}
	return nil
}

func (o *Outbox) refused(err error) bool {
	return o.transport.Refused != nil && o.transport.Refused(err)
}

// send returns nil when the broker has the event. It returns an error when sending fails,
// takes longer than SendTimeout, or ctx ends; the broker may get the event all the same.
func (o *Outbox) send(ctx context.Context, e store.Event) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.config.SendTimeout, fmt.Errorf("the broker has not taken it within %v", o.config.SendTimeout))
	defer cancel()
	publisher, err := o.connection.get(ctx, o.spawn)
	if err != nil {
		return fmt.Errorf("connect to the broker: %w", err)
	}
	sent := make(chan error, 1)
	if !o.spawn(func() { sent <- publisher.Publish(e.Topic, outgoing(e)) }) {
		return ErrClosed
	}
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// spawn runs f in a goroutine that Close waits for. It returns false if the Outbox is
// closed.
func (o *Outbox) spawn(f func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.work.Go(f)
	return true
}

// outgoing returns the message of an event.
func outgoing(e store.Event) *message.Message {
	msg := message.NewMessage(e.ID, e.Payload)
	maps.Copy(msg.Metadata, e.Metadata)
	return msg
}
