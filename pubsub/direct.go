package pubsub

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// direct sends an event to the broker or, if that fails or the topic is
// diverted, writes it into the outbox.
func (o *Outbox) direct(ctx context.Context, e store.Event) error {
	if o.diverted(ctx, e.Topic) {
		return o.write(ctx, e.Topic, []store.Event{e})
	}
	err := o.send(ctx, e)
	switch {
	case err == nil:
		return nil
	case o.refused(err):
		return nothingWritten(fmt.Errorf("the broker refuses the event: %w", err))
	case ctx.Err() != nil:
		return maybeWritten(context.Cause(ctx))
	}
	if written := o.write(ctx, e.Topic, []store.Event{e}); written != nil {
		return fmt.Errorf("neither the broker takes the event (%w) nor the outbox (%w); %w", err, written, ErrMaybeWritten)
	}
	return nil
}

func (o *Outbox) refused(err error) bool {
	return o.transport.Refused != nil && o.transport.Refused(err)
}

// send returns when the broker has the event, or an error when that fails, takes
// too long, or ctx ends; then the broker may get it all the same.
func (o *Outbox) send(ctx context.Context, e store.Event) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.config.SendTimeout, fmt.Errorf("the broker has not taken it within %v", o.config.SendTimeout))
	defer cancel()
	publisher, err := o.line.get(ctx, o.spawn)
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

// spawn runs f in a goroutine that Close waits for, unless that has been called.
func (o *Outbox) spawn(f func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.work.Go(f)
	return true
}

// outgoing is the message of an event.
func outgoing(e store.Event) *message.Message {
	msg := message.NewMessage(e.ID, e.Payload)
	maps.Copy(msg.Metadata, e.Metadata)
	return msg
}

// diversion is a topic whose events this process writes into the outbox, since
// others of the topic are there that must not be overtaken.
type diversion struct {
	writing int  // by publishes that are under way
	written bool // some have been
}

// diverted says whether events of the topic are to be written into the outbox.
// The first time it asks the database, for what an earlier process has left
// there; while that does not answer, what can be sent is sent.
func (o *Outbox) diverted(ctx context.Context, topic string) bool {
	o.mu.Lock()
	known := o.known[topic]
	o.mu.Unlock()
	if !known {
		ctx, cancel := context.WithTimeout(ctx, o.config.SendTimeout)
		defer cancel()
		waiting, err := o.pubsub.store.Waiting(ctx, topic)
		if waiting {
			o.divert(topic)()
		}
		o.mu.Lock()
		o.known[topic] = err == nil
		o.mu.Unlock()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.diversion[topic] != nil
}

// divert diverts a topic, if its events are sent directly, while something is
// written, and then until nothing of it is to be sent.
func (o *Outbox) divert(topic string) (written func()) {
	if o.Mode(topic) != Direct {
		return func() {}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.diversion[topic]
	if d == nil {
		d = &diversion{}
		o.diversion[topic] = d
	}
	d.writing++
	if !o.watched && !o.closed {
		o.watched = true
		o.work.Go(o.watch)
	}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		d.writing--
		d.written = true
	}
}

// watch ends the diversions that are over, until there are none. After an error
// of the database they stay.
func (o *Outbox) watch() {
	const first, most = 10 * time.Millisecond, time.Second
	for wait := first; ; wait = min(2*wait, most) {
		timer := time.NewTimer(wait)
		select {
		case <-o.workCtx.Done():
			timer.Stop()
			return
		case <-o.settled:
		case <-timer.C:
		}
		timer.Stop()
		if o.reopen() {
			return
		}
	}
}

// reopen says whether no topic is diverted any more.
func (o *Outbox) reopen() bool {
	waiting, err := o.pubsub.store.WaitingTopics(o.workCtx)
	if err != nil {
		waiting = nil
	}
	waits := make(map[string]bool, len(waiting))
	for _, topic := range waiting {
		waits[topic] = true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for topic, d := range o.diversion {
		switch {
		case d.writing > 0 || err != nil:
		case d.written: // perhaps since we looked: see next time
			d.written = false
		case !waits[topic]:
			delete(o.diversion, topic)
		}
	}
	o.watched = len(o.diversion) > 0
	return !o.watched
}

var errNilTx = errors.New("the transaction is nil: pass the *sql.Tx or *sqlx.Tx that is open")
