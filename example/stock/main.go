// Command stock shows what a policy does with runs that fail. Warehouses count
// their stock; a handler tells a marketplace, over HTTP. The marketplace is
// busy, closed, down or does not know the article, and each of these is tried
// again in its own way, or not at all. What is left FAILED is replayed.
//
//	go run ./example/stock
//
// To read it: client.go says which answers are worth another try, policy.go
// how many there are, failure.go and tickets.go what happens when they did not
// help, and story.go looks at the record and replays. docs/policies.md has the
// rules.
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
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program, as a function that tests can call.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("stock", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "Warehouses count, a marketplace misbehaves, and a policy deals with it.\n\nusage: go run ./example/stock [-db URL]\n\n")
		flags.PrintDefaults()
	}
	databaseURL := flags.String("db", "", "the database's `URL`, postgres://user:password@host/database or sqlite:path/to/file.db;\nby default a SQLite file that is removed at the end")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintln(stderr, "stock: there are no arguments: see -h")
		return 2
	}

	// The bus logs handlers that fail. The story tells of them itself: the log
	// is only for when it goes wrong.
	var log bytes.Buffer
	if err := withApp(ctx, *databaseURL, &log, func(a *app) error { return a.play(ctx, stdout) }); err != nil {
		log.WriteTo(stderr)
		fmt.Fprintln(stderr, "stock:", err)
		return 1
	}
	return 0
}
