package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/pubsub/transport"
)

// app is the sign-up service. Its database is the bus's.
type app struct {
	bus         *bus.Bus
	mail        *mailServer
	log         *slog.Logger
	databaseURL string
	carried     bool // by a broker, from the outbox on
}

// withApp opens the app, calls f with it, and closes it. Without a database URL
// it makes a SQLite file, which stays for looking around; without a transport's,
// the database carries the events.
func withApp(ctx context.Context, databaseURL, transportURL string, logs io.Writer, f func(*app) error) (err error) {
	if databaseURL == "" {
		dir, err := os.MkdirTemp("", "reprise-example-")
		if err != nil {
			return err
		}
		databaseURL = "sqlite:" + filepath.ToSlash(filepath.Join(dir, "app.db"))
	}
	mail, err := startMailServer()
	if err != nil {
		return err
	}
	defer mail.close()

	log := slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	carrier, err := transport.Open(transportURL, log)
	if err != nil {
		return err
	}
	b, err := bus.Open(ctx, databaseURL, bus.Config{Transport: carrier, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	a := &app{bus: b, mail: mail, log: log, databaseURL: databaseURL, carried: carrier != nil}
	if err := a.createUsers(ctx); err != nil {
		return err
	}
	// From here on each sign-up gets a run for each of these, also while
	// bus.Run runs in another process, or in none yet.
	once := handlers.Policy{Attempts: 1, Cycles: 1} // the story is about the replay: see ./stock for automatic retries
	if err := b.Handle(
		handlers.New("send-welcome-email", a.sendWelcomeEmail, once),
		handlers.New("grant-trial", a.grantTrial),
	); err != nil {
		return err
	}
	return f(a)
}

// serve serves HTTP until ctx ends, and runs the handlers too if asked to.
func (a *app) serve(ctx context.Context, addr string, handle bool, out io.Writer) error {
	server, err := a.serveHTTP(addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `Serving on http://%[1]s as process %[2]d. Try

  curl -d '{"email": "ada@example.com"}' http://%[1]s/signup
  curl http://%[1]s/runs
  curl -X POST http://%[1]s/mail/down    # this process's mail server refuses mail, until /mail/up
  curl -X POST http://%[1]s/replay       # what failed runs again

Ctrl-C stops it, kill -9 %[2]d kills it. What it leaves undone is done by the next:

  %[3]s
`, server.Addr, os.Getpid(), a.serveCommand())

	if handle {
		err = a.bus.Run(ctx) // when ctx ends, it lets running handlers finish
	} else {
		fmt.Fprintln(out, "\nNo handlers run in this process (-handle=false): runs stay PENDING.")
		<-ctx.Done()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, server.Shutdown(ctx))
}

// serveHTTP starts to serve and returns the server, whose Addr is the one that
// it has got.
func (a *app) serveHTTP(addr string) (*http.Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: listener.Addr().String(), Handler: a.routes(), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("serving HTTP ended", "error", err)
		}
	}()
	return server, nil
}
