package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// crew is the processes under test. One that ends, for whatever reason, is
// started again until the crew is dismissed.
type crew struct {
	guard  *guard
	logs   string // directory
	limit  time.Duration
	outage *outages

	mu      sync.Mutex
	members []*member
	ending  bool // nobody is started again
	quiet   bool // nobody publishes any more
	tally   tally
	keeping sync.WaitGroup
}

// tally is what happened to the crew.
type tally struct {
	Kills       int      `json:"kills"`
	Suicides    int      `json:"suicides"` // of the handler killer
	Stops       int      `json:"stops"`
	Terminated  int      `json:"terminated"`
	Starts      int      `json:"starts"`
	Excused     int      `json:"excused"` // ended by themselves while the database was away
	BadExits    []string `json:"-"`       // after SIGTERM
	Unexplained []string `json:"-"`       // ended by themselves
}

// member is a place in the crew; its process changes. The crew's mu guards it.
type member struct {
	task     task
	process  *exec.Cmd
	input    io.Closer // publishing goes on while it is open
	since    time.Time
	gone     chan struct{} // closed when the process has ended
	intent   intent
	reserved bool // somebody is at it
}

// intent is why a process is about to end.
type intent int

const (
	none intent = iota
	toKill
	toTerminate
)

// start starts a process for each task.
func (c *crew) start(ctx context.Context, tasks []task) error {
	for _, t := range tasks {
		m := &member{task: t}
		if err := c.launch(m); err != nil {
			return err
		}
		c.members = append(c.members, m)
		c.keeping.Go(func() { c.keep(ctx, m) })
	}
	return nil
}

var errDismissed = errors.New("the crew is dismissed")

// launch starts a member's process.
func (c *crew) launch(m *member) error {
	t := m.task
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return errDismissed
	}
	c.tally.Starts++
	t.Seed += uint64(c.tally.Starts)
	args, err := json.Marshal(t)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(c.logs, t.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self, childArg, string(args))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = c.guard.attributes()
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start process %s: %w", t.Name, err)
	}
	m.process, m.input, m.since, m.gone, m.intent = cmd, input, time.Now(), make(chan struct{}), none
	if c.quiet {
		_ = input.Close()
	}
	return nil
}

// keep waits for a member's process and starts another, until the crew is
// dismissed.
func (c *crew) keep(ctx context.Context, m *member) {
	for {
		err := m.process.Wait()
		c.mu.Lock()
		c.account(m, err)
		close(m.gone)
		c.mu.Unlock()
		pauseFor(ctx, 100*time.Millisecond)
		err = c.launch(m)
		if errors.Is(err, errDismissed) {
			return
		}
		if err != nil {
			c.mu.Lock()
			c.tally.Unexplained = append(c.tally.Unexplained, err.Error())
			c.mu.Unlock()
			return
		}
	}
}

// account notes how a process ended; mu is held.
func (c *crew) account(m *member, err error) {
	state := m.process.ProcessState
	killed := false
	if status, ok := state.Sys().(syscall.WaitStatus); ok {
		killed = status.Signaled() && status.Signal() == syscall.SIGKILL
	}
	said := fmt.Sprintf("%s, pid %d: %v; see %s.log", m.task.Name, state.Pid(), state, m.task.Name)
	switch {
	case m.intent == toKill && killed:
		c.tally.Kills++
	case m.intent == toTerminate:
		c.tally.Terminated++
		if err != nil && !killed { // killed: by its handler, or overdue, which is noted where it is found
			c.tally.BadExits = append(c.tally.BadExits, said)
		}
	case killed && m.task.Handles:
		c.tally.Suicides++
	case c.outage.since(m.since):
		c.tally.Excused++
	default:
		c.tally.Unexplained = append(c.tally.Unexplained, said)
	}
}

// reserve picks a running process that nobody is at.
func (c *crew) reserve(rng *rand.Rand) (*member, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range rng.Perm(len(c.members)) {
		m := c.members[i]
		select {
		case <-m.gone:
			continue
		default:
		}
		if !m.reserved {
			m.reserved = true
			return m, true
		}
	}
	return nil, false
}

func (c *crew) unreserve(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.reserved = false
}

// signal sends a signal to a member's process.
func (c *crew) signal(m *member, s syscall.Signal, why intent) (gone chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-m.gone:
	default:
		if why != none {
			m.intent = why
		}
		_ = m.process.Process.Signal(s) // it may end by itself at this moment
	}
	return m.gone
}

// kill kills a process in the middle of whatever it does.
func (c *crew) kill(m *member) { <-c.signal(m, syscall.SIGKILL, toKill) }

// freeze stops a process and lets it go on later, as if nothing had been.
func (c *crew) freeze(ctx context.Context, m *member, lasting time.Duration) {
	c.mu.Lock()
	c.tally.Stops++
	c.mu.Unlock()
	c.signal(m, syscall.SIGSTOP, none)
	pauseFor(ctx, lasting)
	c.signal(m, syscall.SIGCONT, none)
}

// terminate asks a process to end and waits for it. One that takes too long is
// a broken promise: it is made to say what it is doing, and killed.
func (c *crew) terminate(m *member) {
	gone := c.signal(m, syscall.SIGTERM, toTerminate)
	if endsWithin(gone, c.limit) {
		return
	}
	c.mu.Lock()
	c.tally.BadExits = append(c.tally.BadExits, fmt.Sprintf("%s, pid %d: did not end within %v of SIGTERM; its goroutines are in %s.log",
		m.task.Name, m.process.Process.Pid, c.limit, m.task.Name))
	c.mu.Unlock()
	c.signal(m, syscall.SIGQUIT, none)
	if !endsWithin(gone, 5*time.Second) {
		<-c.signal(m, syscall.SIGKILL, none)
	}
}

func endsWithin(gone <-chan struct{}, d time.Duration) bool {
	select {
	case <-gone:
		return true
	case <-time.After(d):
		return false
	}
}

// hush ends all publishing, also that of processes to come.
func (c *crew) hush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet = true
	var errs []error
	for _, m := range c.members {
		if err := m.input.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// pids are those of the running processes.
func (c *crew) pids() map[int]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := map[int]bool{}
	for _, m := range c.members {
		select {
		case <-m.gone:
		default:
			pids[m.process.Process.Pid] = true
		}
	}
	return pids
}

// dismiss ends all processes, by SIGTERM or without further ado, and waits
// for them.
func (c *crew) dismiss(gently bool) {
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
	var ending sync.WaitGroup
	for _, m := range c.members {
		ending.Go(func() {
			if gently {
				c.terminate(m)
			} else {
				c.kill(m)
			}
		})
	}
	ending.Wait()
	c.keeping.Wait()
}

// figures returns what happened so far.
func (c *crew) figures() tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tally
}
