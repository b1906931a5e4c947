// Package cli is the command line, reprise: it looks into the record of a Reprise
// database, and replays, discards and corrects what failed. It only writes to the
// database: the application's code is not needed, and whatever process serves a
// handler runs what is replayed.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Config is what an application's own command line knows of the application.
type Config struct{}

// Main runs the command line that the process was called with, and ends the
// process. An interrupt ends the command in good order, a second one at once.
func Main(Config) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(exec(ctx, os.Stdin, os.Stdout, os.Stderr, os.Args[1:], os.Getenv))
}

// exec runs one command line and returns its exit code.
func exec(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, args []string, getenv func(string) string) (code int) {
	a := &app{stdin: stdin, getenv: getenv}
	a.stdout = &guard{to: stdout, json: func() bool { return a.output == "json" }}
	a.stderr = &guard{to: stderr}
	defer func() { _ = errors.Join(a.stdout.close(), a.stderr.close()) }() // nobody is left to tell
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
