// Package beside runs a command beside a server that lives as long as it does,
// and leaves neither behind.
package beside

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// Signals returns what would end this process: as a channel, and as the end of
// a context. Being orphaned counts as a SIGTERM, since killing "go run" or
// "make" does not reach the program that they run.
func Signals() (ctx context.Context, signals <-chan os.Signal, cancel func()) {
	all := make(chan os.Signal, 8)
	signal.Notify(all, stopSignals()...)
	ctx, cancel = signal.NotifyContext(context.Background(), stopSignals()...)
	go signalWhenOrphaned(ctx)
	return ctx, all, cancel
}

// Run runs command to its end and returns its exit code. Each variable is a
// NAME=VALUE of its environment. The command has no standard input, and a
// process group of its own: it gets what arrives on signals once, and nothing
// of the group stays behind.
func Run(command []string, signals <-chan os.Signal, variables ...string) (int, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), variables...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = OwnGroup()
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	signalled := false
	for {
		select {
		case s := <-signals:
			signalled = true
			signalGroup(cmd.Process, s)
		case err := <-ended:
			if signalled {
				waitForGroup(cmd.Process, 15*time.Second)
			}
			signalGroup(cmd.Process, os.Kill)
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				return 1, err
			}
			return exitCode(cmd.ProcessState), nil
		}
	}
}

// waitForGroup gives what the ended leader of a group has started, such as the
// program of "go run", time to end upon the signal that it got as well.
func waitForGroup(leader *os.Process, most time.Duration) {
	for deadline := time.Now().Add(most); groupLives(leader) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
}

// exitCode is what a shell would report for the ended process.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// stopSignals are those that would end this process. A hangup that whoever
// started it ignores (nohup) stays ignored.
func stopSignals() []os.Signal {
	s := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT}
	if !signal.Ignored(syscall.SIGHUP) {
		s = append(s, syscall.SIGHUP)
	}
	return s
}

// signalWhenOrphaned does so unless ctx has ended: a signal that ended "go run"
// has reached its program as well.
func signalWhenOrphaned(ctx context.Context) {
	for parent := os.Getppid(); os.Getppid() == parent; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Signal(syscall.SIGTERM)
	}
}
