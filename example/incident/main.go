// Command incident is an application in which things go wrong on a large scale:
// of its invoices every tenth is not posted, in three ways. demo.sh looks into
// it, and heals it, with nothing but the command line; `make demo-replay` runs
// that on a throwaway Postgres.
//
//	incident -invoices 100000   issues invoices, posts them as well as it can, and ends
//	incident -healed            the ledger is up again: posts what becomes due, until it is interrupted
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	invoices := flag.Int("invoices", 0, "to issue")
	healed := flag.Bool("healed", false, "the ledger is up")
	flag.Parse()
	if err := run(ctx, *invoices, *healed); err != nil {
		fmt.Fprintln(os.Stderr, "incident:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, invoices int, healed bool) error {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		return errors.New("DATABASE_URL is not set: name a database, such as sqlite:incident.db")
	}
	b, err := bus.Open(ctx, url, bus.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	defer b.Close()
	ledger := ledger{up: healed}
	if err := b.Handle(handlers.New("post-to-ledger", ledger.post, handlers.Policy{Attempts: 1, Cycles: 1})); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	if !healed {
		if err := issue(ctx, b, invoices); err != nil {
			return err
		}
		if err := settle(ctx, b); err != nil {
			return err
		}
		stop()
	}
	return <-ended
}

// issue publishes invoices, a thousand at a time.
func issue(ctx context.Context, b *bus.Bus, n int) error {
	for first := 1; first <= n; first += 1000 {
		var batch []any
		for i := first; i < min(first+1000, n+1); i++ {
			batch = append(batch, number(i))
		}
		if err := b.Publish(ctx, batch...); err != nil {
			return err
		}
	}
	return nil
}

// settle returns when every run has ended.
func settle(ctx context.Context, b *bus.Bus) error {
	for {
		waiting, err := b.Store().Count(ctx, store.Filter{Status: store.Pending})
		if err != nil || waiting.N == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
