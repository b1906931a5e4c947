//go:build unix

package bus_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// sleeperURL names the database of a test that runs as a process of its own.
const sleeperURL = "REPRISE_TEST_SLEEPER"

type slept struct{ N int }

func (slept) EventName() string { return "slept" }

// Processes that were all suspended together, as by a laptop's lid, do not take each
// other for dead: nobody died, and every run ends at its first attempt.
func TestProcessesThatSleptTogetherDoNotTakeEachOtherForDead(t *testing.T) {
	if url := os.Getenv(sleeperURL); url != "" {
		sleeper(t, url)
		return
	}
	testdb.Each(t, func(t *testing.T, url string) {
		const processes, deadAfter = 3, 2 * time.Second
		b, err := bus.Open(t.Context(), url, bus.Config{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		count := func(query string) (n int) {
			table := "reprise."
			if strings.HasPrefix(url, "sqlite:") {
				table = "reprise_"
			}
			require.NoError(t, b.DB().QueryRow(strings.ReplaceAll(query, "reprise.", table)).Scan(&n))
			return n
		}
		eventually := func(what string, f func() bool) {
			t.Helper()
			require.Eventually(t, f, time.Minute, 10*time.Millisecond, what)
		}
		var all []*sleeping
		for range processes {
			all = append(all, newSleeping(t, url))
		}
		eventually("all serve", func() bool {
			subscribed, err := b.Store().Subscriptions(t.Context())
			require.NoError(t, err)
			return len(subscribed) == 1 && subscribed[0].Instances == processes
		})
		eventually("all may judge", func() bool { // they have been steady for as long as others must have been silent
			instances, err := b.Store().Instances(t.Context())
			require.NoError(t, err)
			now, err := b.Store().Clock(t.Context())
			require.NoError(t, err)
			for _, i := range instances {
				if now.Sub(i.StartedAt) < 2*deadAfter {
					return false
				}
			}
			return true
		})
		const events = 2 * processes
		for n := range events {
			require.NoError(t, b.Publish(t.Context(), slept{n}))
		}
		eventually("all are being handled", func() bool {
			return count(`SELECT count(*) FROM reprise.handler_runs WHERE status = 'PENDING' AND due_at IS NULL`) == events
		})
		for _, s := range all {
			require.NoError(t, s.process.Signal(syscall.SIGSTOP))
		}
		silences := func(enough func(time.Duration) bool) bool {
			instances, err := b.Store().Instances(t.Context())
			require.NoError(t, err)
			for _, i := range instances {
				if !enough(i.Silence) {
					return false
				}
			}
			return len(instances) == processes
		}
		eventually("all look dead", func() bool { return silences(func(d time.Duration) bool { return d > 2*deadAfter }) })
		for _, s := range all {
			require.NoError(t, s.process.Signal(syscall.SIGCONT))
		}
		woken := time.Now()
		eventually("all go on, for as long as it takes to judge", func() bool {
			return time.Since(woken) > 2*deadAfter && silences(func(d time.Duration) bool { return d < deadAfter })
		})
		for _, s := range all {
			s.finish(t)
		}
		eventually("all runs succeed", func() bool {
			return count(`SELECT count(*) FROM reprise.handler_runs WHERE status = 'SUCCESS'`) == events
		})
		require.Zero(t, count(`SELECT count(*) FROM reprise.run_attempts`))
		runs, err := b.Store().Runs(t.Context(), store.Filter{})
		require.NoError(t, err)
		for _, r := range runs {
			require.Equal(t, 1, r.Attempt)
		}
	})
}

// sleeping is a process that handles events and takes until it is told to finish.
type sleeping struct {
	process *os.Process
	tell    *os.File
	ended   chan error
}

func newSleeping(t *testing.T, url string) *sleeping {
	t.Helper()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	command := exec.Command(os.Args[0], "-test.run=^TestProcessesThatSleptTogetherDoNotTakeEachOtherForDead$")
	command.Env = append(os.Environ(), sleeperURL+"="+url)
	command.Stdin, command.Stdout, command.Stderr = read, t.Output(), t.Output()
	require.NoError(t, command.Start())
	require.NoError(t, read.Close())
	s := &sleeping{process: command.Process, tell: write, ended: make(chan error, 1)}
	go func() { s.ended <- command.Wait() }()
	t.Cleanup(func() {
		_ = s.process.Signal(syscall.SIGCONT)
		_ = s.tell.Close() // it ends
		select {
		case err := <-s.ended:
			require.NoError(t, err)
		case <-time.After(time.Minute):
			_ = s.process.Kill()
			t.Error("the process does not end")
		}
	})
	return s
}

// finish has its handlers return.
func (s *sleeping) finish(t *testing.T) {
	t.Helper()
	_, err := fmt.Fprintln(s.tell, "finish")
	require.NoError(t, err)
}

func sleeper(t *testing.T, url string) {
	b, err := bus.Open(t.Context(), url, bus.Config{HeartbeatInterval: 200 * time.Millisecond, DeadAfter: 2 * time.Second})
	require.NoError(t, err)
	finish := make(chan struct{})
	require.NoError(t, b.Handle(handlers.New("sleeper", func(context.Context, slept) error {
		<-finish
		return nil
	}, handlers.Policy{Attempts: 1, Cycles: 1, Concurrency: 2})))
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		if lines.Scan() {
			close(finish)
		}
		for lines.Scan() {
		}
		stop()
	}()
	require.NoError(t, b.Run(ctx))
	require.NoError(t, b.Close())
}
