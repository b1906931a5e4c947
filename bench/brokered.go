package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The works in which a broker carries the events.

// drainKafka measures how fast waiting events are handled, from the moment the system subscribes.
func drainKafka(s setup) func(context.Context, *trial) (figures, error) {
	return func(ctx context.Context, t *trial) (f figures, err error) {
		s, drop, err := t.topic(ctx, s)
		if err != nil {
			return f, err
		}
		defer func() { err = errors.Join(err, drop()) }()
		if err := t.kafka.fill(ctx, s.Topic, t.n); err != nil {
			return f, err
		}
		p, err := t.spawn(ctx, s)
		if err != nil {
			return f, err
		}
		defer p.close(ctx)
		if err := t.calm(ctx); err != nil {
			return f, err
		}
		start := time.Now()
		if err := p.start(ctx); err != nil {
			return f, err
		}
		done, err := p.settle(ctx, t.n*s.Handlers, t.limit)
		return t.rate(start, done, t.n*s.Handlers), err
	}
}

// publishKafka is publish to a broker, which must have all that was published.
func publishKafka(callers int) func(context.Context, *trial) (figures, error) {
	return func(ctx context.Context, t *trial) (f figures, err error) {
		s, drop, err := t.topic(ctx, setup{Handlers: 1, Latency: true})
		if err != nil {
			return f, err
		}
		defer func() { err = errors.Join(err, drop()) }()
		p, err := t.spawn(ctx, s)
		if err != nil {
			return f, err
		}
		defer p.close(ctx)
		f, done, err := t.calls(ctx, p, callers)
		if err != nil {
			return f, err
		}
		want := done + firstCalls(callers).Events
		if there, err := t.kafka.count(s.Topic); err != nil || there != want {
			return f, errors.Join(fmt.Errorf("%d events of %d are in Kafka", there, want), err)
		}
		return f, nil
	}
}

// nobody listens there.
const closedPort = "127.0.0.1:1"

// outboxDown is publish while the broker is down. The bus runs, and tries to send what waits. A
// handler is subscribed, by another process.
func outboxDown(callers int) func(context.Context, *trial) (figures, error) {
	return func(ctx context.Context, t *trial) (f figures, err error) {
		s := setup{Brokers: []string{closedPort}, Topic: t.name, Handlers: 1, Latency: true}
		other, err := t.spawn(ctx, s)
		if err != nil {
			return f, err
		}
		_, err = other.publish(ctx, firstCalls(callers), 0) // until which nobody is subscribed
		other.close(ctx)
		if err != nil {
			return f, err
		}
		s.Handlers = 0
		p, err := t.spawn(ctx, s)
		if err != nil {
			return f, err
		}
		defer p.close(ctx)
		if err := p.start(ctx); err != nil {
			return f, err
		}
		f, done, err := t.calls(ctx, p, callers)
		if err != nil {
			return f, err
		}
		var there int
		if err := t.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM reprise.outbox) + (SELECT count(*) FROM reprise.handler_runs)`).Scan(&there); err != nil {
			return f, err
		}
		if want := done + 2*firstCalls(callers).Events; there != want {
			return f, fmt.Errorf("%d events of %d are in the database", there, want)
		}
		return f, nil
	}
}

// topic makes a topic for the trial, named as its database.
func (t *trial) topic(ctx context.Context, s setup) (on setup, drop func() error, err error) {
	if t.kafka == nil {
		return s, nil, notOffered("there is no Apache Kafka here, which takes Java 17 or newer")
	}
	s.Brokers, s.Topic = t.kafka.addrs, t.name
	drop = func() error { return t.kafka.drop(t.name) }
	if err := t.kafka.create(ctx, t.name); err != nil {
		return s, nil, errors.Join(err, drop())
	}
	return s, drop, nil
}

// calls is publishing, with how long each call takes.
func (t *trial) calls(ctx context.Context, p *process, callers int) (f figures, done int, err error) {
	if f, done, err = t.publishing(ctx, p, callers); err != nil {
		return f, done, err
	}
	took, err := p.calls(ctx)
	if err != nil || len(took) == 0 {
		return f, done, errors.Join(errors.New("no call has ended"), err)
	}
	f.P50, f.P99 = milliseconds(percentile(took, 50)), milliseconds(percentile(took, 99))
	return f, done, nil
}
