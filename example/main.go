// Command example is a sign-up service on Reprise. By itself it plays a story:
// three people sign up while the mail server is down, the record shows which
// welcome mails failed and why, and a replay sends them.
//
//	go run ./example           # the story
//	go run ./example -serve    # the service, to try by hand
//
// To read it: signup.go publishes an event, handlers.go reacts to it, app.go
// puts both on a bus, and story.go looks at the record and replays.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Getenv))
}

const usage = `A sign-up service on Reprise. By itself it plays a story: three people sign up
while the mail server is down, and a replay sends the mails that failed.

usage: go run ./example [-serve [-addr HOST:PORT] [-handle=false] [-mail-down]]

DATABASE_URL names a database to play in, postgres://user:password@host/database
or sqlite:path/to/file.db. Without it, each start makes a new SQLite file.
REPRISE_TRANSPORT names a broker to carry the events, kafka://host:9092 or
nats://host:4222. Without it, the database does.

`

// run is the whole program, as a function that tests can call.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, getenv func(string) string) int {
	flags := flag.NewFlagSet("example", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	serve := flags.Bool("serve", false, "serve HTTP until interrupted, instead of playing the story")
	addr := flags.String("addr", "127.0.0.1:8080", "the `address` to serve on")
	handle := flags.Bool("handle", true, "run the handlers; with -handle=false this process only accepts sign-ups,\nand their runs wait for another process on the same database")
	mailDown := flags.Bool("mail-down", false, "begin with the mail server down")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 || flags.NFlag() > 0 && !*serve {
		fmt.Fprintln(stderr, "example: there are no arguments, and the other flags go with -serve: see -h")
		return 2
	}

	var err error
	if *serve {
		err = withApp(ctx, getenv("DATABASE_URL"), getenv("REPRISE_TRANSPORT"), stderr, func(a *app) error {
			a.mail.setDown(*mailDown)
			return a.serve(ctx, *addr, *handle, stdout)
		})
	} else {
		// The bus logs handlers that fail. The story tells of them itself: the
		// log is only for when it goes wrong.
		var log bytes.Buffer
		err = withApp(ctx, getenv("DATABASE_URL"), getenv("REPRISE_TRANSPORT"), &log, func(a *app) error { return a.play(ctx, stdout) })
		if err != nil {
			log.WriteTo(stderr)
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "example:", err)
		return 1
	}
	return 0
}
