package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/reprise-bus/reprise/bus"
)

// childArg as the first argument makes this program one of the processes that
// the soak looks after; the second is its task as JSON.
const childArg = "child"

// begunFile is inherited by a child, which closes it when it heeds SIGTERM.
const begunFile = 3

// task is what a child process has to do.
type task struct {
	Name      string
	URL       string
	Handles   bool
	Publishes bool
	Rate      float64 // events in a second
	Seed      uint64
	Journal   string
	Grace     time.Duration
	Dead      time.Duration // of silence until a process is taken for dead
	Added     []string      // handlers beside those of duties
	Registry  string        // where it is written when they were registered
}

// maxConns bounds a child's pool: what the bus, the handlers and the publishers
// use at once, with room.
const maxConns = 40

// runChild does the task until SIGTERM. It stops publishing when its standard
// input ends, which is also when whoever started it is gone.
func runChild(args []string) error {
	if len(args) != 1 {
		return errors.New("child: want a task")
	}
	var t task
	if err := json.Unmarshal([]byte(args[0]), &t); err != nil {
		return fmt.Errorf("child: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGINT)
	_ = os.NewFile(begunFile, "begun").Close() // from now on SIGTERM ends the task, not just the process
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("pid", os.Getpid())
	log.Info("begins", "process", t.Name)
	err := t.do(ctx, log)
	if err != nil {
		log.Error("ends", "error", err)
		return err
	}
	log.Info("ends")
	return nil
}

func (t task) do(ctx context.Context, log *slog.Logger) (err error) {
	b, err := t.open(ctx, log)
	if err != nil || b == nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	w := &worker{bus: b, notes: notebook{b.DB()}}
	if err := w.register(); err != nil {
		return err
	}
	obeying := newOrderly(ctx, t, b, log)
	defer obeying.close()
	if t.Handles {
		for _, name := range t.Added {
			obeying.obey(order{Do: orderAdd, Name: name})
		}
	}
	untilTold, cancel := context.WithCancel(ctx)
	defer cancel() // also when Run ends by itself
	go func() {    // ends with standard input, or with the process
		obeying.read(os.Stdin)
		cancel()
	}()
	var publishing sync.WaitGroup
	defer publishing.Wait()
	if t.Publishes {
		j, err := openJournal(t.Journal)
		if err != nil {
			return err
		}
		defer cancel()
		p := &publisher{bus: b, journal: j, log: log, brief: t.isSQLite()}
		publishing.Go(func() {
			p.run(untilTold, t.Rate, t.Seed)
			if err := j.close(); err != nil {
				log.Error("close the journal", "error", err)
			}
		})
	}
	if t.Handles {
		return b.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

func (t task) config(log *slog.Logger) bus.Config {
	return bus.Config{
		Concurrency:       8,
		GracePeriod:       t.Grace,
		HeartbeatInterval: t.Dead / 4,
		DeadAfter:         t.Dead,
		Logger:            log,
	}
}

// open opens the bus as soon as the database lets it; nil when ctx ends first.
func (t task) open(ctx context.Context, log *slog.Logger) (*bus.Bus, error) {
	for {
		b, err := bus.Open(ctx, t.URL, t.config(log))
		switch {
		case err == nil:
			if b.DB().Stats().MaxOpenConnections == 0 { // SQLite has its bound
				b.DB().SetMaxOpenConns(maxConns)
				b.DB().SetMaxIdleConns(maxConns)
			}
			return b, nil
		case ctx.Err() != nil:
			return nil, nil
		}
		log.Info("the bus does not open yet", "error", err)
		pauseFor(ctx, 200*time.Millisecond)
	}
}
