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
	"slices"
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

	awake   sync.RWMutex // held to start a process or to let one go on; all of it while all are suspended
	mu      sync.Mutex
	added   []string // handlers beside those of duties
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
	input    io.WriteCloser // takes orders; publishing goes on while it is open
	since    time.Time
	begun    chan struct{} // closed when the process can be asked to end
	gone     chan struct{} // closed when the process has ended
	intent   intent
	reserved bool // somebody is at it
	frozen   bool // alone
	thawed   time.Time
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
	c.awake.RLock() // one that is started while the others are suspended would rightly find them dead
	defer c.awake.RUnlock()
	t := m.task
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return errDismissed
	}
	c.tally.Starts++
	t.Seed += uint64(c.tally.Starts)
	t.Added = slices.Clone(c.added)
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
	begins, begun, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{begun}
	err = cmd.Start()
	_ = begun.Close()
	if err != nil {
		_ = begins.Close()
		return fmt.Errorf("start process %s: %w", t.Name, err)
	}
	heeds := make(chan struct{})
	c.keeping.Go(func() { awaitEnd(begins, heeds) })
	m.process, m.input, m.since, m.begun, m.gone, m.intent, m.frozen = cmd, input, time.Now(), heeds, make(chan struct{}), none, false
	if c.quiet {
		_ = input.Close()
	}
	return nil
}

// awaitEnd closes the channel when the file ends, as that of a dead process does.
func awaitEnd(file *os.File, ended chan<- struct{}) {
	_, _ = io.Copy(io.Discard, file)
	_ = file.Close()
	close(ended)
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
	m.frozen = true
	c.mu.Unlock()
	c.signal(m, syscall.SIGSTOP, none)
	pauseFor(ctx, lasting)
	c.awake.RLock()
	defer c.awake.RUnlock()
	c.signal(m, syscall.SIGCONT, none)
	c.mu.Lock()
	defer c.mu.Unlock()
	m.frozen, m.thawed = false, time.Now()
}

// suspend stops all processes together and lets them go on later. None is started
// meanwhile. during is called when all have been stopped.
func (c *crew) suspend(ctx context.Context, lasting time.Duration, during func()) {
	c.awake.Lock()
	defer c.awake.Unlock()
	for _, m := range c.members {
		c.signal(m, syscall.SIGSTOP, none)
	}
	until := time.Now().Add(lasting)
	during()
	pauseFor(ctx, time.Until(until))
	for _, m := range c.members {
		c.signal(m, syscall.SIGCONT, none)
	}
}

// undisturbed are the pids of the processes that have run since t, were not frozen
// alone and are not about to end.
func (c *crew) undisturbed(t time.Time) map[int]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := map[int]bool{}
	for _, m := range c.members {
		select {
		case <-m.gone:
		default:
			pids[m.process.Process.Pid] = m.since.Before(t) && m.intent == none && !m.frozen && !m.thawed.After(t)
		}
	}
	return pids
}

// order tells a member's process, which it returns, to do something.
func (c *crew) order(m *member, o order) (pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.tell(o)
	return m.process.Process.Pid
}

// tell is order; the crew's mu is held.
func (m *member) tell(o order) {
	line, err := json.Marshal(o)
	if err == nil {
		_, _ = m.input.Write(append(line, '\n')) // the process may have ended
	}
}

// serve has all processes that handle serve one more handler, or no longer.
func (c *crew) serve(name string, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := order{Do: orderAdd, Name: name}
	if on {
		c.added = append(c.added, name)
	} else {
		o.Do = orderDrop
		c.added = slices.DeleteFunc(c.added, func(other string) bool { return other == name })
	}
	for _, m := range c.members {
		if m.task.Handles {
			m.tell(o)
		}
	}
}

// terminate asks a process to end and waits for it. One that takes too long is
// a broken promise: it is made to say what it is doing, and killed.
func (c *crew) terminate(m *member) {
	c.mu.Lock()
	begun := m.begun
	c.mu.Unlock()
	<-begun
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
