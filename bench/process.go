package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A process is one system in a process of its own. Its methods are called one at a time.
type process struct {
	commands *json.Encoder
	replies  *json.Decoder
	errors   *tail
	pid      int
	end      func() error // closes its input and waits for it
}

// spawn starts cmd, opens the system in it, and ends it at the latest with ctx.
func spawn(ctx context.Context, cmd []string, s setup) (*process, error) {
	c := osexec.CommandContext(ctx, cmd[0], cmd[1:]...)
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	errs := &tail{size: 4 << 10}
	c.Stderr = errs
	c.Cancel = in.Close // it closes what it has open, and only then exits
	c.WaitDelay = 2 * closing
	if err := c.Start(); err != nil {
		return nil, err
	}
	p := &process{commands: json.NewEncoder(in), replies: json.NewDecoder(out), errors: errs, pid: c.Process.Pid,
		end: func() error {
			in.Close()
			kill := time.AfterFunc(2*closing, func() { c.Process.Kill() })
			defer kill.Stop()
			return c.Wait()
		}}
	if _, err := p.do(ctx, command{Op: "open", Setup: &s}); err != nil {
		p.close(ctx)
		return nil, err
	}
	return p, nil
}

func (p *process) do(ctx context.Context, c command) (r reply, err error) {
	if err = p.commands.Encode(c); err == nil {
		err = p.replies.Decode(&r)
	}
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case err != nil:
		if errors.Is(err, io.EOF) {
			err = errors.New("its process has ended")
		}
		return r, fmt.Errorf("%s: %w\n%s", c.Op, err, p.errors)
	case r.Error != "":
		return r, fmt.Errorf("%s\n%s", r.Error, p.errors)
	}
	return r, nil
}

// publish returns how many events were published before the limit; 0 is no limit.
func (p *process) publish(ctx context.Context, l load, limit time.Duration) (int, error) {
	r, err := p.do(ctx, command{Op: "publish", Load: &l, LimitMS: limit.Milliseconds()})
	return r.N, err
}

func (p *process) start(ctx context.Context) error {
	_, err := p.do(ctx, command{Op: "start"})
	return err
}

// wait waits until n handler calls have succeeded in this process since it began.
func (p *process) wait(ctx context.Context, n int, limit time.Duration) (int, error) {
	r, err := p.do(ctx, command{Op: "wait", N: n, LimitMS: limit.Milliseconds()})
	return r.N, err
}

// settle waits until n handler calls have succeeded, and the end of every one is in the database.
func (p *process) settle(ctx context.Context, n int, limit time.Duration) (int, error) {
	r, err := p.do(ctx, command{Op: "wait", N: n, Settle: true, LimitMS: limit.Milliseconds()})
	return r.N, err
}

// latencies returns how old each event was at its handler's first line, in the order of arrival.
func (p *process) latencies(ctx context.Context) ([]time.Duration, error) {
	return p.durations(ctx, "latencies")
}

// calls returns how long each call of the last publish took.
func (p *process) calls(ctx context.Context) ([]time.Duration, error) {
	return p.durations(ctx, "calls")
}

func (p *process) durations(ctx context.Context, op string) ([]time.Duration, error) {
	r, err := p.do(ctx, command{Op: op})
	ds := make([]time.Duration, len(r.Latencies))
	for i, us := range r.Latencies {
		ds[i] = time.Duration(us) * time.Microsecond
	}
	return ds, err
}

// close ends the system and its process. An error of the system while it ends is not one of the
// measurement, which is over.
func (p *process) close(ctx context.Context) {
	p.do(ctx, command{Op: "close"})
	p.end()
}

var errNoPeak = errors.New("peak memory is read from /proc, which this machine has not")

// peak returns the most memory the process has had resident, in MiB.
func (p *process) peak() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return 0, errNoPeak
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 64)
			return n / 1024, err
		}
	}
	return 0, errNoPeak
}

// tail keeps the last bytes written to it: what a child had to say before it failed.
type tail struct {
	mu   sync.Mutex
	size int
	kept []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	t.kept = t.kept[max(0, len(t.kept)-t.size):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.kept))
}
