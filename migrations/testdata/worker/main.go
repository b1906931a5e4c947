// The worker of the test of upgrades: it is built with the source of each
// version, so that processes of several versions work side by side.
//
// It takes commands on its standard input and says what it does on its
// standard output. What a handler waits for is a file of the directory.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

type (
	work    struct{ ID string }
	hold    struct{ ID string } // handled when the file "released" is there
	snooze  struct{ ID string } // put off until then
	broken  struct{ ID string } // FAILED unless the file "mended" is there
	waiting struct{ ID string } // has a handler in some processes only
)

func (work) EventName() string    { return "work" }
func (hold) EventName() string    { return "hold" }
func (snooze) EventName() string  { return "snooze" }
func (broken) EventName() string  { return "broken" }
func (waiting) EventName() string { return "waiting" }
func (e work) EventID() string    { return e.ID }
func (e hold) EventID() string    { return e.ID }
func (e snooze) EventID() string  { return e.ID }
func (e broken) EventID() string  { return e.ID }
func (e waiting) EventID() string { return e.ID }
func event(topic, id string) any {
	switch topic {
	case "work":
		return work{id}
	case "hold":
		return hold{id}
	case "snooze":
		return snooze{id}
	case "broken":
		return broken{id}
	default:
		return waiting{id}
	}
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3] == "waiting"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(url, dir string, servesWaiting bool) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b, err := bus.Open(ctx, url, bus.Config{
		HeartbeatInterval: 300 * time.Millisecond, DeadAfter: 3 * time.Second, PollInterval: 100 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	defer b.Close()
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	again := handlers.Policy{Attempts: 50, Backoff: handlers.Backoff{Initial: 10 * time.Millisecond, Maximum: 100 * time.Millisecond}}
	once := again
	once.Transactional = true
	fails := map[string]bool{}
	for _, register := range []error{
		b.Handle(handlers.New("plain", func(_ context.Context, e work) error {
			say("handled plain", e.ID)
			return nil
		}, again)),
		// The first attempt in each process fails, of every fifth event.
		b.Handle(handlers.New("fragile", func(_ context.Context, e work) error {
			if strings.HasSuffix(e.ID, "5") && !fails[e.ID] {
				fails[e.ID] = true
				return errors.New("not at once")
			}
			say("handled fragile", e.ID)
			return nil
		}, handlers.Policy{Attempts: 50, Concurrency: 1, Backoff: again.Backoff})),
		b.Handle(handlers.New("once", func(ctx context.Context, e work) error {
			tx, _ := handlers.Tx(ctx)
			_, err := tx.ExecContext(ctx, `INSERT INTO written (id) VALUES ($1)`, e.ID)
			return err
		}, once)),
		b.Handle(handlers.New("holder", func(ctx context.Context, e hold) error {
			say("holding", e.ID)
			for !there("released") {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(20 * time.Millisecond):
				}
			}
			say("handled holder", e.ID)
			return nil
		}, handlers.Policy{Attempts: 50, Concurrency: 64, Backoff: again.Backoff, Timeout: -1})),
		b.Handle(handlers.New("snoozer", func(_ context.Context, e snooze) error {
			if !there("released") {
				say("snoozing", e.ID)
				return handlers.Snooze(2 * time.Second)
			}
			say("handled snoozer", e.ID)
			return nil
		}, again)),
		b.Handle(handlers.New("breaker", func(_ context.Context, e broken) error {
			if !there("mended") {
				return handlers.Permanent(errors.New("it is broken"))
			}
			say("handled breaker", e.ID)
			return nil
		}, again)),
	} {
		if register != nil {
			return register
		}
	}
	if servesWaiting {
		if err := b.Handle(handlers.New("waiter", func(_ context.Context, e waiting) error {
			say("handled waiter", e.ID)
			return nil
		}, again)); err != nil {
			return err
		}
	}
	ran := make(chan error, 1)
	go func() { ran <- b.Run(ctx) }()
	say("ready", strconv.Itoa(os.Getpid()))

	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		if err := obey(ctx, b, words); err != nil {
			return fmt.Errorf("%v: %w", words, err)
		}
		say("done", strings.Join(words, " "))
	}
	cancel()
	return <-ran
}

func obey(ctx context.Context, b *bus.Bus, words []string) error {
	request := replay.Request{By: "the test", Reason: "the test"}
	switch words[0] {
	case "publish": // TOPIC PREFIX COUNT
		count, err := strconv.Atoi(words[3])
		if err != nil {
			return err
		}
		for i := range count {
			id := words[2] + "-" + strconv.Itoa(i)
			// Under its id it is written once, however often it is published.
			var err error
			for range 10 {
				if err = b.Publish(ctx, event(words[1], id)); err == nil {
					break
				}
			}
			if err != nil {
				return err
			}
			say("published "+words[1], id)
		}
		return nil
	case "replay-paused": // HANDLER
		request.Rate = 0.5 // all but the first are due later, and after the pause not before they are resumed
		operation, err := replay.All(ctx, b.Store(), store.Filter{Status: store.Failed, Handler: words[1]}, request)
		if err != nil {
			return err
		}
		return pause(ctx, b, operation.ID, request)
	case "resume": // OPERATION
		id, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return err
		}
		_, err = replay.Resume(ctx, b.Store(), id, request)
		return err
	case "discard": // ID
		id, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return err
		}
		_, err = replay.Discard(ctx, b.Store(), store.Filter{IDs: []int64{id}}, request)
		return err
	}
	return errors.New("no such command")
}

// say writes a line at once: what a killed process has said is known.
func say(what, id string) { fmt.Println(what, id) }
