package pubsub

import (
	"context"
	"errors"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// connection is the connection to a broker. It is made when first needed, by one
// goroutine at a time, and kept.
type connection struct {
	connect func() (message.Publisher, error)

	mu        sync.Mutex
	publisher message.Publisher
	attempt   *attempt // under way
	closed    bool
}

type attempt struct {
	over chan struct{}
	err  error
}

// get returns the publisher. It joins an attempt to connect that is under way, or starts
// one with spawn. It returns an error if the attempt fails or ctx ends.
func (l *connection) get(ctx context.Context, spawn func(f func()) bool) (message.Publisher, error) {
	l.mu.Lock()
	if l.publisher != nil || l.closed {
		defer l.mu.Unlock()
		if l.closed {
			return nil, ErrClosed
		}
		return l.publisher, nil
	}
	a := l.attempt
	if a == nil {
		a = &attempt{over: make(chan struct{})}
		if !spawn(func() { l.try(a) }) {
			l.mu.Unlock()
			return nil, ErrClosed
		}
		l.attempt = a
	}
	l.mu.Unlock()
	select {
	case <-a.over:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if a.err != nil {
		return nil, a.err
	}
	return l.get(ctx, spawn)
}

func (l *connection) try(a *attempt) {
	publisher, err := l.connect()
	if err == nil && publisher == nil {
		err = errors.New("the transport returned no publisher")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempt, a.err = nil, err
	if err == nil {
		l.publisher = publisher
	}
	close(a.over)
}

func (l *connection) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.publisher == nil {
		return nil
	}
	return l.publisher.Close()
}
