// Package cli is the command line, reprise. It inspects the record in a Reprise
// database, and replays, discards and corrects failed runs. It only writes to the
// database and needs no code of the application: the process that serves a handler runs
// what is replayed.
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

	"github.com/reprise-bus/reprise/internal/decode"
)

// Config is what an application's own command line knows about the application. A zero
// field means that it does not know.
type Config struct {
	// Marshaler is the Marshaler of bus.Config. With it, "runs show", "events show" and
	// "outbox show" decode a payload that is not JSON and show it as JSON, and "runs
	// edit" opens the editor on this JSON.
	Marshaler cqrs.CommandEventMarshaler

	// Events has an event, or a pointer to one, of each type whose payloads are to be
	// decoded. Only its topic and its type count: &pb.OrderPlaced{} will do.
	Events []any
}

// Main runs the command line of the process, and ends the process. A first interrupt
// ends the command in an orderly way, a second one at once.
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
	defer func() { _ = errors.Join(a.stdout.close(), a.stderr.close()) }() // an error cannot be reported any more
	decoder, err := decode.New("cli.Config", config.Marshaler, config.Events)
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
