package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
)

// order is a line on the standard input of a child.
type order struct {
	Do    string
	Name  string        `json:",omitempty"` // of a handler
	Conns int           `json:",omitempty"` // how many connections
	For   time.Duration `json:",omitempty"`
}

const (
	orderBusy    = "busy"    // long statements on so many connections
	orderDiscard = "discard" // DISCARD ALL on so many
	orderAdd     = "add"     // serve one more handler
	orderDrop    = "drop"    // and no longer
)

// orderly carries orders out in a child.
type orderly struct {
	task task
	bus  *bus.Bus
	log  *slog.Logger
	ctx  context.Context
	stop context.CancelFunc

	mu      sync.Mutex
	closed  bool
	serving map[string]context.CancelFunc // by handler
	doing   sync.WaitGroup
}

func newOrderly(ctx context.Context, t task, b *bus.Bus, log *slog.Logger) *orderly {
	o := &orderly{task: t, bus: b, log: log, serving: map[string]context.CancelFunc{}}
	o.ctx, o.stop = context.WithCancel(ctx)
	return o
}

// read obeys until the input ends.
func (o *orderly) read(input io.Reader) {
	lines := bufio.NewScanner(input)
	for lines.Scan() {
		var line order
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			o.log.Error("an order does not parse", "order", lines.Text(), "error", err)
			continue
		}
		o.log.Info("order", "do", line.Do, "handler", line.Name)
		o.obey(line)
	}
}

// obey begins to carry out an order.
func (o *orderly) obey(line order) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	switch line.Do {
	case orderBusy:
		o.doing.Go(func() { o.busy(line) })
	case orderDiscard:
		o.doing.Go(func() { o.discard(line.Conns) })
	case orderAdd:
		if o.serving[line.Name] == nil {
			ctx, cancel := context.WithCancel(o.ctx)
			o.serving[line.Name] = cancel
			o.doing.Go(func() { o.serve(ctx, line.Name) })
		}
	case orderDrop:
		if cancel := o.serving[line.Name]; cancel != nil {
			delete(o.serving, line.Name)
			cancel()
		}
	}
}

// close ends everything that was ordered, and waits for it.
func (o *orderly) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.stop()
	o.doing.Wait()
}

// busy runs long statements on connections of the bus's pool, and has its prepared
// statements lost meanwhile: they are prepared anew while most connections are busy.
func (o *orderly) busy(line order) {
	var sleeping sync.WaitGroup
	defer sleeping.Wait()
	for range line.Conns {
		sleeping.Go(func() {
			if _, err := o.bus.DB().ExecContext(o.ctx, `SELECT pg_sleep($1)`, line.For.Seconds()); err != nil {
				o.log.Info("a long statement failed", "error", err)
			}
		})
	}
	pauseFor(o.ctx, line.For/4)
	o.discard(4)
}

// discard has the server forget what connections have prepared. It holds them
// all before the first is let go of.
func (o *orderly) discard(conns int) {
	ctx, cancel := context.WithTimeout(o.ctx, 5*time.Second)
	defer cancel()
	for range conns {
		conn, err := o.bus.DB().Conn(ctx)
		if err != nil {
			o.log.Info("no connection to discard", "error", err)
			return
		}
		defer conn.Close()
		if _, err := conn.ExecContext(ctx, `DISCARD ALL`); err != nil {
			o.log.Info("DISCARD ALL failed", "error", err)
		}
	}
}

// serve runs one more handler, in a bus of its own on the same pool.
func (o *orderly) serve(ctx context.Context, name string) {
	for ctx.Err() == nil {
		if err := o.serveOnce(ctx, name); err != nil {
			o.log.Info("an added handler is not served yet", "handler", name, "error", err)
			pauseFor(ctx, 200*time.Millisecond)
		}
	}
}

func (o *orderly) serveOnce(ctx context.Context, name string) error {
	config := o.task.config(o.log)
	config.DB = o.bus.DB()
	if !o.task.isSQLite() {
		config.ListenURL = o.task.URL
	}
	b, err := bus.New(ctx, config)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Handle(handlers.New(name, func(context.Context, Ordered) error { return nil }, patient())); err != nil {
		return err
	}
	if err := o.registered(name); err != nil {
		return err
	}
	return b.Run(ctx)
}

// registered notes that from now on the handler gets every event.
func (o *orderly) registered(name string) error {
	file, err := os.OpenFile(o.task.Registry, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintf(file, "%s %d\n", name, time.Now().UnixNano())
	return err
}

func (t task) isSQLite() bool { return strings.HasPrefix(t.URL, "sqlite:") }
