package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memoryPeer hands events to the handler in memory, one at a time, and again when it fails.
type memoryPeer struct {
	handle func(context.Context, event) error
	queue  chan event
	batch  []int // sizes of the calls of Publish

	mu     sync.Mutex
	closed bool
}

func (p *memoryPeer) open(_ context.Context, _ setup, handle func(context.Context, event) error) (peer, error) {
	p.handle, p.queue = handle, make(chan event, 10_000)
	return p, nil
}

func (p *memoryPeer) Publish(_ context.Context, events []event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batch = append(p.batch, len(events))
	for _, e := range events {
		p.queue <- e
	}
	return nil
}

func (p *memoryPeer) Start(ctx context.Context) error {
	go func() {
		for e := range p.queue {
			for p.handle(ctx, e) != nil {
			}
		}
	}()
	return nil
}

func (p *memoryPeer) Unfinished(context.Context) (bool, error) { return len(p.queue) > 0, nil }

func (p *memoryPeer) Close(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	close(p.queue)
	return nil
}

// under runs body with a process that is a goroutine.
func under(t *testing.T, p *memoryPeer, s setup, body func(*process)) {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- serve(t.Context(), p.open, inR, outW) }()
	child := &process{commands: json.NewEncoder(inW), replies: json.NewDecoder(outR), errors: &tail{size: 100}}
	if _, err := child.do(t.Context(), command{Op: "open", Setup: &s}); err != nil {
		t.Fatal(err)
	}
	body(child)
	inW.Close() // without the command close: as when the parent is gone
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !p.closed {
		t.Error("the system was not closed")
	}
}

func TestEverythingPublishedIsHandledOnce(t *testing.T) {
	p := &memoryPeer{}
	under(t, p, setup{Handlers: 1, FailEvery: 100, Latency: true}, func(child *process) {
		n, err := child.publish(t.Context(), load{Events: 1050, Batch: 100, Callers: 4}, 0)
		if n != 1050 || err != nil {
			t.Errorf("published %d, %v", n, err)
		}
		slices.Sort(p.batch)
		calls, err := child.calls(t.Context())
		if len(calls) != len(p.batch) || err != nil {
			t.Errorf("%d calls took their time, %v; want %d", len(calls), err, len(p.batch))
		}
		if !slices.Equal(p.batch, []int{50, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100}) {
			t.Errorf("batches %v", p.batch)
		}
		if err := child.start(t.Context()); err != nil {
			t.Error(err)
		}
		n, err = child.settle(t.Context(), 1050, time.Minute)
		if n != 1050 || err != nil {
			t.Errorf("handled %d, %v", n, err)
		}
		// 11 events have failed the first time, and were seen twice.
		ages, err := child.latencies(t.Context())
		if len(ages) != 1061 || err != nil {
			t.Errorf("%d latencies, %v", len(ages), err)
		}
	})
}

func TestWaitStopsAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under(t, &memoryPeer{}, setup{Handlers: 1}, func(child *process) {
			start := time.Now()
			n, err := child.settle(t.Context(), 1, 3*time.Second)
			if took := time.Since(start); n != 0 || err != nil || took < 3*time.Second || took > 4*time.Second {
				t.Errorf("settle = %d, %v after %v", n, err, took)
			}
		})
	})
}

func TestErrorsOfTheSystemAreReplies(t *testing.T) {
	refuse := func(context.Context, setup, func(context.Context, event) error) (peer, error) {
		return nil, errors.New("no such database")
	}
	in := strings.NewReader(`{"op":"open","setup":{}} {"op":"start"} {"op":"close"}`)
	var out strings.Builder
	if err := serve(t.Context(), refuse, in, &out); err != nil {
		t.Fatal(err)
	}
	want := `{"error":"open: no such database"}
{"error":"start: not open"}
{}
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}
