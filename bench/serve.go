package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A command is one line on a child's standard input, a reply one line on its standard output.
// graphile/graphile.mjs speaks the same, but for calls.
type command struct {
	Op      string `json:"op"` // open, publish, calls, start, wait, latencies or close
	Setup   *setup `json:"setup,omitempty"`
	Load    *load  `json:"load,omitempty"`
	N       int    `json:"n,omitempty"`
	Settle  bool   `json:"settle,omitempty"`
	LimitMS int64  `json:"limit_ms,omitempty"`
}

type reply struct {
	Error     string  `json:"error,omitempty"`
	N         int     `json:"n,omitempty"` // published, or handled with success
	Latencies []int64 `json:"latencies,omitempty"`
}

// A load is events to be published, Batch in one call, by Callers at once.
type load struct {
	Events  int `json:"events"`
	Batch   int `json:"batch"`
	Callers int `json:"callers"`
}

// A peer is a system written in Go, opened on a database.
type peer interface {
	// Publish publishes the events in one call and returns when they are committed. It is called
	// by many goroutines at once.
	Publish(ctx context.Context, events []event) error
	// Start begins to handle what was and will be published, and returns when it has begun.
	Start(ctx context.Context) error
	// Unfinished reports whether the end of any handler call is still to be written.
	Unfinished(ctx context.Context) (bool, error)
	// Close ends the handling, and waits for it no longer than ctx.
	Close(ctx context.Context) error
}

// An opener makes the tables, subscribes s.Handlers handlers and starts nothing yet.
type opener func(ctx context.Context, s setup, handle func(context.Context, event) error) (peer, error)

// closing is how long a system may take to end.
const closing = 5 * time.Second

// serve runs one system by commands until it is told to close, or in ends.
func serve(ctx context.Context, open opener, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	commands := make(chan command)
	go func() { // apart, so that the end of in interrupts a command that is under way
		defer cancel()
		defer close(commands)
		lines := json.NewDecoder(in)
		for {
			var c command
			if lines.Decode(&c) != nil {
				return
			}
			select {
			case commands <- c:
			case <-ctx.Done():
				return
			}
		}
	}()
	s := child{open: open}
	replies := json.NewEncoder(out)
	for c := range commands {
		r, err := s.do(ctx, c)
		if err != nil {
			r.Error = fmt.Sprintf("%s: %v", c.Op, err)
		}
		if err := replies.Encode(r); err != nil {
			return err
		}
		if c.Op == "close" {
			return nil
		}
	}
	return s.close(ctx)
}

type child struct {
	open      opener
	peer      peer
	handling  handling
	published atomic.Int64
	calls     []int64 // microseconds that each call of the last publish took
}

func (s *child) do(ctx context.Context, c command) (r reply, err error) {
	if s.peer == nil && c.Op != "open" && c.Op != "close" {
		return r, errors.New("not open")
	}
	limit := time.Duration(c.LimitMS) * time.Millisecond
	switch c.Op {
	case "open":
		s.handling.setup = *c.Setup
		s.peer, err = s.open(ctx, *c.Setup, s.handling.handle)
	case "publish":
		r.N, err = s.publish(ctx, *c.Load, limit)
	case "calls":
		r.Latencies = s.calls
	case "start":
		err = s.peer.Start(ctx)
	case "wait":
		r.N, err = s.wait(ctx, c.N, c.Settle, limit)
	case "latencies":
		r.Latencies = s.handling.latencies()
	case "close":
		err = s.close(ctx)
	default:
		err = errors.New("unknown")
	}
	return r, err
}

// publish returns how many events were published until all were, or the limit came.
func (s *child) publish(ctx context.Context, l load, limit time.Duration) (int, error) {
	until := time.Now().Add(limit)
	var next, done atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, l.Callers)
	calls := make([][]int64, l.Callers)
	for caller := range l.Callers {
		wg.Go(func() {
			for limit == 0 || time.Now().Before(until) {
				end := int(next.Add(int64(l.Batch)))
				k := min(l.Batch, l.Events-(end-l.Batch))
				if k <= 0 {
					return
				}
				first := int(s.published.Add(int64(k))) - k
				batch := make([]event, k)
				for i := range batch {
					batch[i] = newEvent(first + i)
				}
				start := time.Now()
				if errs[caller] = s.peer.Publish(ctx, batch); errs[caller] != nil {
					return
				}
				if s.handling.setup.Latency {
					calls[caller] = append(calls[caller], time.Since(start).Microseconds())
				}
				done.Add(int64(k))
			}
		})
	}
	wg.Wait()
	s.calls = slices.Concat(calls...)
	return int(done.Load()), errors.Join(errs...)
}

// wait returns how many handler calls have succeeded, when they are n or the limit has come. With
// settle it also waits for the end of each to be in the database.
func (s *child) wait(ctx context.Context, n int, settle bool, limit time.Duration) (int, error) {
	until := time.Now().Add(limit)
	over := func() bool { return limit > 0 && !time.Now().Before(until) }
	handled := func() int { return int(s.handling.succeeded.Load()) }
	for handled() < n && !over() {
		if err := pause(ctx, time.Millisecond); err != nil {
			return handled(), err
		}
	}
	for settle && handled() >= n && !over() {
		if more, err := s.peer.Unfinished(ctx); err != nil || !more {
			return handled(), err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return handled(), err
		}
	}
	return handled(), nil
}

func (s *child) close(ctx context.Context) error {
	if s.peer == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	p := s.peer
	s.peer = nil
	return p.Close(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
