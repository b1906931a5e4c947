package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
)

// The handlers' names are their identity in the database.
const (
	updateMarketplaceStock = "update-marketplace-stock"
	tellTheBuyers          = "tell-the-buyers"
)

// app is the shop's stock-keeping. Its database is the bus's.
type app struct {
	bus         *bus.Bus
	client      *client
	marketplace *marketplace
}

// withApp opens the app and the marketplace, calls f, and closes both.
func withApp(ctx context.Context, databaseURL string, logs io.Writer, f func(*app) error) (err error) {
	if databaseURL == "" {
		dir, err := os.MkdirTemp("", "reprise-stock-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		databaseURL = "sqlite:" + filepath.ToSlash(filepath.Join(dir, "stock.db"))
	}
	m, err := startMarketplace()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()

	log := slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	b, err := bus.Open(ctx, databaseURL, bus.Config{
		Logger:       log,
		PollInterval: 50 * time.Millisecond, // a story's, as the waits in policy.go; leave it out
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	a := &app{bus: b, client: newClient(m.url), marketplace: m}
	if err := a.createTables(ctx); err != nil {
		return err
	}
	if err := b.Handle(
		handlers.New(updateMarketplaceStock, a.client.update, a.updatePolicy()),
		handlers.New(tellTheBuyers, a.tellBuyers, handlers.Policy{Transactional: true}),
	); err != nil {
		return err
	}
	return f(a)
}

func (a *app) createTables(ctx context.Context) error {
	for _, table := range []string{stockTable, noticesTable, ticketsTable} {
		if _, err := a.bus.DB().ExecContext(ctx, table); err != nil {
			return err
		}
	}
	return nil
}
