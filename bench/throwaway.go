package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
)

const urlVariable = "TEST_DATABASE_URL"

// childEnd is the exit code of this program run again, which has reported its own errors.
type childEnd struct{ code int }

func (e *childEnd) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// underThrowawayServer runs this program again beside a server that the repository's launcher
// starts and stops.
func underThrowawayServer(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	root, err := repository(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "reprise-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Built rather than "go run", which would hide signals and exit codes, and which has to be in
	// the repository's root, where file names in args mean something else.
	launcher := filepath.Join(dir, "testpg")
	build := osexec.CommandContext(ctx, "go", "build", "-C", root, "-o", launcher, "./internal/testpg")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the launcher of a throwaway server: %w\n%s", err, out)
	}
	// What is committed is on the disk, as in production.
	durable := []string{"-c", "fsync=on", "-c", "full_page_writes=on", "--", self}
	run := osexec.CommandContext(ctx, launcher, append(durable, args...)...)
	run.Stdout, run.Stderr = stdout, stderr
	run.Cancel = func() error { return run.Process.Signal(os.Interrupt) } // passed on to this program
	var exit *osexec.ExitError
	if err := run.Run(); errors.As(err, &exit) {
		return &childEnd{exit.ExitCode()}
	} else if err != nil {
		return fmt.Errorf("throwaway server: %w", err)
	}
	return nil
}

// repository is the directory of the module that this one measures.
func repository(ctx context.Context) (string, error) {
	out, err := osexec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/reprise-bus/reprise").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w: run this in its directory bench, or name a server with -database-url", err)
	}
	return strings.TrimSpace(string(out)), nil
}
