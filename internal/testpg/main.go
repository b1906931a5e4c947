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
// fsync=on.
//
// The server programs are looked for in $PG_BIN, on the PATH and in the places
// where packages put them; where the system's package manager may be used
// without asking anyone, a missing server is installed.
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
	"os/signal"
	"syscall"
	"time"

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

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, stopSignals()...)
	ctx, cancel := signal.NotifyContext(context.Background(), stopSignals()...)
	defer cancel()
	go signalWhenOrphaned()

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
			return runCommand(command, url, signals)
		}
	}

	bin, err := findOrInstall(ctx, stderr)
	if err != nil {
		return 1, err
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
	return runCommand(command, server.URL, signals)
}

// runCommand runs command to its end, passes on what arrives on signals, and
// leaves nothing of its process group behind.
func runCommand(command []string, url string, signals <-chan os.Signal) (int, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), urlVariable+"="+url)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			signalGroup(cmd.Process, s)
		case err := <-ended:
			signalGroup(cmd.Process, os.Kill)
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				return 1, err
			}
			return exitCode(cmd.ProcessState), nil
		}
	}
}

// exitCode is what a shell would report for the ended process.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// stopSignals are those that would end testpg. A hangup that whoever started
// it ignores (nohup) stays ignored.
func stopSignals() []os.Signal {
	s := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT}
	if !signal.Ignored(syscall.SIGHUP) {
		s = append(s, syscall.SIGHUP)
	}
	return s
}

// signalWhenOrphaned terminates testpg when its parent is gone: killing
// "go run" or "make" does not reach the program that they run.
func signalWhenOrphaned() {
	parent := os.Getppid()
	for os.Getppid() == parent {
		time.Sleep(500 * time.Millisecond)
	}
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		self.Signal(syscall.SIGTERM)
	}
}
