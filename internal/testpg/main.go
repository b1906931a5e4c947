// Command testpg runs a command beside a throwaway Postgres server:
//
//	go run ./internal/testpg [-keep] [-c NAME=VALUE]... -- COMMAND ARGS...
//
// COMMAND finds a superuser's URL of the server in TEST_DATABASE_URL, and testpg
// exits with COMMAND's exit code. (go run itself reports any failure as 1.)
// The server is gone, and its files with it, when testpg ends, however it ends.
//
// If TEST_DATABASE_URL is already set, COMMAND gets that server instead and
// none is started. Without a COMMAND, testpg starts a server, prints its URL
// and keeps it up until a signal.
//
// The server is fast rather than durable; -c sets a parameter of it, such as
// fsync=on. With -c lc_messages=de_DE.UTF-8, testpg fails unless the server
// really answers in German.
//
// The server programs are looked for in $PG_BIN, on the PATH and in the places
// where packages put them; where the system's package manager may be used
// without asking anyone, a missing server is installed, and so are PgBouncer,
// which tests need beside it, and the locale of lc_messages.
//
// COMMAND has no standard input, and a process group of its own: a signal sent
// to testpg, or typed at the terminal, reaches all of it once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/reprise-bus/reprise/internal/beside"
	"github.com/reprise-bus/reprise/internal/pgserver"
)

const urlVariable = "TEST_DATABASE_URL"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("testpg", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: go run ./internal/testpg [-keep] [-c NAME=VALUE]... [-- COMMAND ARGS...]")
		flags.PrintDefaults()
	}
	keep := flags.Bool("keep", false, "keep the server's data and log, and say where they are")
	var settings []string
	flags.Func("c", "set a `NAME=VALUE` of the server's configuration; may be repeated", func(s string) error {
		settings = append(settings, s)
		return nil
	})
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}

	ctx, signals, cancel := beside.Signals()
	defer cancel()

	code, err := serve(ctx, flags.Args(), *keep, settings, signals, stdout, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "testpg:", err)
	}
	return code
}

func serve(ctx context.Context, command []string, keep bool, settings []string, signals <-chan os.Signal, stdout, stderr io.Writer) (code int, err error) {
	if len(command) > 0 {
		if _, err := exec.LookPath(command[0]); err != nil {
			return 127, err
		}
		if url := os.Getenv(urlVariable); url != "" {
			if err := connect(ctx, url); err != nil {
				return 1, err
			}
			fmt.Fprintf(stderr, "testpg: using the server of %s, %s\n", urlVariable, redact(url))
			return beside.Run(command, signals, urlVariable+"="+url)
		}
	}

	bin, err := findOrInstall(ctx, stderr)
	if err != nil {
		return 1, err
	}
	if len(command) > 0 {
		haveBouncer(ctx, stderr)
	}
	locale := language(settings)
	if locale != "" {
		if err := haveLocale(ctx, locale, stderr); err != nil {
			return 1, err
		}
	}
	server, err := pgserver.Start(ctx, bin, settings...)
	if ctx.Err() != nil && err != nil {
		return 1, errors.New("interrupted")
	} else if err != nil {
		return 1, err
	}
	if keep {
		server.Keep()
	}
	defer func() {
		if tail := server.Stop(); tail != "" {
			fmt.Fprintf(stderr, "testpg: the server ended by itself; its log ends:\n%s\n", tail)
		}
		if keep {
			fmt.Fprintln(stderr, "testpg: kept", server.Dir)
		}
	}()

	if locale != "" {
		if err := speaks(ctx, server.URL, locale); err != nil {
			return 1, err
		}
	}

	if len(command) == 0 {
		fmt.Fprintf(stderr, "testpg: Postgres %d is up; export %s as below to use it, interrupt to stop it\n", bin.Major, urlVariable)
		fmt.Fprintln(stdout, server.URL)
		select {
		case <-signals:
			return 0, nil
		case <-server.Ended():
			return 1, nil
		}
	}
	return beside.Run(command, signals, urlVariable+"="+server.URL)
}
