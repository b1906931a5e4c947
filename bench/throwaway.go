package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// What the launchers tell the program that they run.
const (
	urlVariable     = "TEST_DATABASE_URL"
	brokersVariable = "KAFKA_BROKERS"
	kafkaVariable   = "REPRISE_TEST_KAFKA"
	noKafka         = "kfake" // in kafkaVariable, where Apache Kafka cannot be had
)

// childEnd is the exit code of this program run again, which has reported its own errors.
type childEnd struct{ code int }

func (e *childEnd) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// underThrowawayServers runs this program again beside the servers that it lacks, which the
// repository's launchers start and stop.
func underThrowawayServers(ctx context.Context, postgres, kafka bool, args []string, stdout, stderr io.Writer) error {
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
	var line []string
	beside := func(launcher string, options ...string) error {
		// Built rather than "go run", which would hide signals and exit codes, and which has to be
		// in the repository's root, where file names in args mean something else.
		path := filepath.Join(dir, launcher)
		build := osexec.CommandContext(ctx, "go", "build", "-C", root, "-o", path, "./internal/"+launcher)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the launcher of a throwaway server: %w\n%s", err, out)
		}
		line = append(append(append(line, path), options...), "--")
		return nil
	}
	if postgres { // what is committed is on the disk, as in production
		if err := beside("testpg", "-c", "fsync=on", "-c", "full_page_writes=on"); err != nil {
			return err
		}
	}
	if kafka {
		if err := beside("testkafka", "-partitions", strconv.Itoa(partitions)); err != nil {
			return err
		}
	}
	line = append(append(line, self), args...)
	run := osexec.CommandContext(ctx, line[0], line[1:]...)
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
		return "", fmt.Errorf("find the repository: %w: run this in its directory bench, or name servers with -database-url and -kafka-brokers", err)
	}
	return strings.TrimSpace(string(out)), nil
}
