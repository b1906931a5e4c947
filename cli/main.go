// Package cli is the command line, reprise: it looks into the record of a Reprise
// database, and replays, discards and corrects what failed. It only writes to the
// database: the application's code is not needed, and whatever process serves a
// handler runs what is replayed.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
)

// Config is what an application's own command line knows of the application. A zero
// field means that it does not.
type Config struct {
	// Marshaler is that of bus.Config. With it, "runs show", "events show" and "outbox
	// show" decode a payload that is not JSON and show it as JSON, and "runs edit"
	// opens the editor on that.
	Marshaler cqrs.CommandEventMarshaler

	// Events has an event, or a pointer to one, of each type whose payloads are to be
	// decoded: its topic, and the type, are what counts. &pb.OrderPlaced{} will do.
	Events []any
}

// Main runs the command line that the process was called with, and ends the
// process. An interrupt ends the command in good order, a second one at once.
func Main(config Config) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(exec(ctx, config, os.Stdin, os.Stdout, os.Stderr, os.Args[1:], os.Getenv))
}

// exec runs one command line and returns its exit code.
func exec(ctx context.Context, config Config, stdin io.Reader, stdout, stderr io.Writer, args []string, getenv func(string) string) (code int) {
	a := &app{stdin: stdin, getenv: getenv}
	a.stdout = &guard{to: stdout, json: func() bool { return a.output == "json" }}
	a.stderr = &guard{to: stderr}
	defer func() { _ = errors.Join(a.stdout.close(), a.stderr.close()) }() // nobody is left to tell
	decoder, err := newDecoder(config)
	if err != nil {
		fmt.Fprintln(a.stderr, "reprise:", err)
		return exitFailed
	}
	a.decoder = decoder
	root := newRoot(a)
	root.SetIn(stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if err != nil && !a.started {
		err = usage(err)
	}
	return a.report(ctx, command, err)
}
