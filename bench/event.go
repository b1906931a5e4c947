package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An event is what every system publishes and handles: about 200 bytes of JSON.
type event struct {
	Seq  int    `json:"seq"`
	At   int64  `json:"at"` // when Publish was called, Unix microseconds
	Data string `json:"data"`
}

// EventName is the topic, for the systems that ask the event for it.
func (event) EventName() string { return topic }

const topic = "bench"

var filler = strings.Repeat("0123456789abcdef", 10)

func newEvent(seq int) event {
	return event{Seq: seq, At: time.Now().UnixMicro(), Data: filler}
}

// A setup says how to open a system. It is data, not code, because the system runs in a process
// of its own, which may be Node.
type setup struct {
	URL         string `json:"url"`
	Handlers    int    `json:"handlers"`    // subscribed to the topic; 0 for a process that only publishes
	Concurrency int    `json:"concurrency"` // handler calls at once; 0 leaves it to the system's own settings
	Defaults    bool   `json:"defaults"`    // as a user gets it, instead of tuned for throughput
	SleepMS     int    `json:"sleep_ms"`    // how long a handler takes
	FailEvery   int    `json:"fail_every"`  // every so many-th event fails at its first attempt; 0 for none
	Latency     bool   `json:"latency"`     // remember how old each event was at the handler's first line, and how long each call of Publish took

	Brokers []string `json:"brokers,omitempty"` // of Kafka, which carries the events; none: the database does
	Topic   string   `json:"topic,omitempty"`   // there
}

// handling is what all handlers of a process do and count together.
type handling struct {
	setup     setup
	succeeded atomic.Int64
	failed    sync.Map // of the seq that have failed once

	mu      sync.Mutex
	latency []int64 // microseconds, in the order of arrival
}

var errFirstAttempt = errors.New("the first attempt fails on purpose")

// handle is the body of every handler.
func (h *handling) handle(ctx context.Context, e event) error {
	if h.setup.Latency {
		age := time.Now().UnixMicro() - e.At
		h.mu.Lock()
		h.latency = append(h.latency, age)
		h.mu.Unlock()
	}
	if h.setup.SleepMS > 0 {
		select {
		case <-time.After(time.Duration(h.setup.SleepMS) * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if h.setup.FailEvery > 0 && e.Seq%h.setup.FailEvery == 0 {
		if _, again := h.failed.LoadOrStore(e.Seq, nil); !again {
			return errFirstAttempt
		}
	}
	h.succeeded.Add(1)
	return nil
}

func (h *handling) latencies() []int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.latency)
}
