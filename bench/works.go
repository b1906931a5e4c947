package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A work is what is measured, written once for all systems.
type work struct {
	name    string
	about   string
	measure measure
	n       int      // events; scaled by -n, unless fixed
	fixed   bool     // n is no load
	only    []string // the systems that do it; nil: those that do everything
	keep    bool     // its database serves all rounds
	kafka   bool     // it takes Kafka
	run     func(ctx context.Context, t *trial) (figures, error)
}

// A measure is which of the figures a work is about.
type measure int

const (
	rate measure = iota
	latency
	memory
	chatter
)

var measures = []struct {
	unit  string
	value func(figures) float64
	less  bool // is better
}{
	rate:    {"per second", func(f figures) float64 { return f.PerSec }, false},
	latency: {"ms (p50)", func(f figures) float64 { return f.P50 }, true},
	memory:  {"MiB", func(f figures) float64 { return f.PeakMB }, true},
	chatter: {"per second", func(f figures) float64 { return f.PerSec }, true},
}

// drainEvents is what -n is in proportion to.
const drainEvents = 20_000

var works = []*work{
	{name: "drain", n: drainEvents, about: "events wait in the database; handle them all",
		run: drain(setup{Handlers: 1})},
	{name: "sustained", n: 50_000, about: "publish 500 events a call and handle them meanwhile",
		run: sustained},
	{name: "publish-1", n: 20_000, about: "publish one event a call, one caller", run: publish(1)},
	{name: "publish-16", n: 20_000, about: "publish one event a call, 16 callers", run: publish(16)},
	{name: "publish-64", n: 20_000, about: "publish one event a call, 64 callers", run: publish(64)},
	{name: "latency", n: 200, measure: latency, about: "from the call of Publish to the handler's first line, about ten events a second, one process",
		run: latencyWithin},
	{name: "latency-cross", n: 200, measure: latency, about: "the same, published in another process",
		run: latencyAcross},
	{name: "slow", n: 5_000, about: "drain with handlers that take 10 ms, 100 at once",
		run: drain(setup{Handlers: 1, Concurrency: 100, SleepMS: 10})},
	{name: "fan-10", n: 5_000, about: "drain with ten handlers on the topic; handler runs are counted",
		run: drain(setup{Handlers: 10})},
	{name: "mixed", n: 20_000, about: "drain while 1 % of the handler calls fail the first time and are retried",
		run: drain(setup{Handlers: 1, FailEvery: 100})},
	{name: "history", n: drainEvents, only: []string{ours}, keep: true, about: "drain beside many finished runs (see -history); reprise only",
		run: drainAfter(0)},
	{name: "memory", n: 1_000_000, measure: memory, about: "peak resident memory of the process that drains a million events, MiB",
		run: peakMemory},
	{name: "idle", n: 50, fixed: true, measure: chatter, about: "statements per second of a process with 50 handlers and nothing to do",
		run: idle},
	{name: "floor", n: 50_000, only: []string{ours}, about: "the rows of sustained written by SQL alone, on two connections: the limit; reprise only",
		run: floor(false)},
	{name: "floor-drain", n: drainEvents, only: []string{ours}, about: "the rows of drain written by SQL alone, on two connections: the limit; reprise only",
		run: floor(true)},
	{name: "kafka", n: 100_000, only: onKafka, kafka: true, about: "events wait on 12 partitions in Kafka, each under a key of its own; subscribe and handle them all",
		run: drainKafka(setup{Handlers: 1})},
	{name: "kafka-slow", n: 5_000, only: onKafka, kafka: true, about: "the same with handlers that take 10 ms, 100 at once where the partitions are not the limit",
		run: drainKafka(setup{Handlers: 1, Concurrency: 100, SleepMS: 10})},
	{name: "kafka-slow-16", n: 5_000, only: onKafka, kafka: true, about: "the same, 16 at once, as by reprise's defaults",
		run: drainKafka(setup{Handlers: 1, Concurrency: 16, SleepMS: 10})},
	{name: "kafka-publish-16", n: 20_000, only: []string{ours, stockKafka}, kafka: true, about: "publish one event a call to Kafka, 16 callers; ms are those of a call",
		run: publishKafka(16)},
	{name: "outbox-down-1", n: 20_000, only: []string{ours, withoutBroker}, about: "publish one event a call while Kafka is down, one caller; ms are those of a call",
		run: outboxDown(1)},
	{name: "outbox-down", n: 20_000, only: []string{ours, withoutBroker}, about: "the same, 16 callers",
		run: outboxDown(16)},
}

// alone says whether the work compares nobody.
func (w *work) alone() bool { return len(w.only) == 1 }

// does says whether the system does the work.
func (w *work) does(s *system) bool {
	if w.only == nil {
		return !s.partial
	}
	return slices.Contains(w.only, s.name)
}

func workNames() []string {
	var names []string
	for _, w := range works {
		names = append(names, w.name)
	}
	return names
}

// worksNamed is one work, except that history is one for each size.
func worksNamed(name string, histories []int) []*work {
	i := slices.IndexFunc(works, func(w *work) bool { return w.name == name })
	if name != "history" {
		return works[i : i+1]
	}
	var ws []*work
	for _, runs := range histories {
		w := *works[i]
		w.name = fmt.Sprintf("history-%d", runs)
		w.about = fmt.Sprintf("drain beside %s finished runs, %s only", thousands(runs), ours)
		w.run = drainAfter(runs)
		ws = append(ws, &w)
	}
	return ws
}

// drain measures how fast waiting events are handled, from the moment the system is started.
func drain(s setup) func(context.Context, *trial) (figures, error) {
	return func(ctx context.Context, t *trial) (f figures, err error) {
		if err := t.backlog(ctx, t.n, s); err != nil {
			return f, err
		}
		p, err := t.spawn(ctx, s)
		if err != nil {
			return f, err
		}
		defer p.close(ctx)
		start := time.Now()
		if err := p.start(ctx); err != nil {
			return f, err
		}
		done, err := p.settle(ctx, t.n*s.Handlers, t.limit)
		return t.rate(start, done, t.n*s.Handlers), err
	}
}

// sustained measures how fast events are published and handled at once, in one process.
func sustained(ctx context.Context, t *trial) (f figures, err error) {
	p, err := t.spawn(ctx, setup{Handlers: 1})
	if err != nil {
		return f, err
	}
	defer p.close(ctx)
	if err := p.start(ctx); err != nil {
		return f, err
	}
	if err := t.calm(ctx); err != nil {
		return f, err
	}
	start := time.Now()
	if _, err := p.publish(ctx, load{Events: t.n, Batch: 500, Callers: 1}, t.limit); err != nil {
		return f, err
	}
	left := max(time.Millisecond, t.limit-time.Since(start))
	done, err := p.settle(ctx, t.n, left)
	return t.rate(start, done, t.n), err
}

// publish measures how fast single events are published. A handler is subscribed, so that the
// work of a publication is all done, but not started.
func publish(callers int) func(context.Context, *trial) (figures, error) {
	return func(ctx context.Context, t *trial) (f figures, err error) {
		p, err := t.spawn(ctx, setup{Handlers: 1})
		if err != nil {
			return f, err
		}
		defer p.close(ctx)
		f, _, err = t.publishing(ctx, p, callers)
		return f, err
	}
}

// publishing measures a process that publishes single events.
func (t *trial) publishing(ctx context.Context, p *process, callers int) (f figures, done int, err error) {
	if _, err := p.publish(ctx, firstCalls(callers), 0); err != nil {
		return f, 0, err
	}
	if err := t.calm(ctx); err != nil {
		return f, 0, err
	}
	start := time.Now()
	done, err = p.publish(ctx, load{Events: t.n, Batch: 1, Callers: callers}, t.limit)
	return t.rate(start, done, t.n), done, err
}

// firstCalls open connections and are not counted.
func firstCalls(callers int) load { return load{Events: 10 * callers, Batch: 1, Callers: callers} }

// calm lets a system that has just started come to rest.
func (t *trial) calm(ctx context.Context) error {
	if err := t.cluster.checkpoint(ctx); err != nil {
		return err
	}
	return pause(ctx, 500*time.Millisecond)
}
