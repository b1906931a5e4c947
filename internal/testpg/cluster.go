package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// cluster is a running Postgres server that ends, and leaves no files, at the
// latest when this process does.
type cluster struct {
	url     string
	dir     string // holds data/ and log
	server  *exec.Cmd
	ended   chan struct{} // closed when the server process is gone
	release func()        // lets go of dir
}

// startCluster initialises and starts a server and returns when it accepts
// connections. If keep, its directory stays behind.
func startCluster(ctx context.Context, bin string, keep bool) (*cluster, error) {
	dir, attr, err := makeHome()
	if err != nil {
		return nil, err
	}
	release, err := guard(dir, keep)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c := &cluster{dir: dir, release: release}
	if err := c.start(ctx, bin, attr); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *cluster) start(ctx context.Context, bin string, attr *syscall.SysProcAttr) error {
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", c.data(),
		"-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = c.dir, attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, tail(out))
	}
	var err error
	for range 3 { // another process may take the free port first
		err = c.launch(ctx, bin, attr)
		if err == nil || !strings.Contains(err.Error(), "could not create any TCP/IP sockets") {
			break
		}
	}
	return err
}

// launch starts the server on a free port and waits until it is ready.
func (c *cluster) launch(ctx context.Context, bin string, attr *syscall.SysProcAttr) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	log, err := os.Create(c.log())
	if err != nil {
		return err
	}
	defer log.Close()

	args := []string{"-D", c.data()}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1",
		fmt.Sprintf("port=%d", port),
		"unix_socket_directories=",
		"max_connections=300",
		"shared_buffers=256MB",
		"fsync=off", // the data need not survive the machine
		"full_page_writes=off",
		"max_prepared_transactions=0",
		"timezone=UTC",
		"log_timezone=UTC",
	} {
		args = append(args, "-c", setting)
	}
	server := exec.Command(filepath.Join(bin, "postgres"), args...)
	server.Dir, server.SysProcAttr = c.dir, attr
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Wait() // why it ended is in its log
	}()
	c.server, c.ended = server, ended
	c.url = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)

	if err := c.ready(ctx); err != nil {
		return fmt.Errorf("start postgres: %w; its log ends:\n%s", err, c.logTail())
	}
	return nil
}

func (c *cluster) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := ping(ctx, c.url)
		if err == nil {
			return nil
		}
		select {
		case <-c.ended:
			return errors.New("the server ended")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends the server and lets go of its files. If the server had ended
// before it was asked to, stop returns the end of its log.
func (c *cluster) stop() (died string) {
	defer c.release()
	if c.server == nil {
		return ""
	}
	select {
	case <-c.ended:
		return c.logTail()
	default:
	}
	for _, step := range []struct {
		signal os.Signal
		grace  time.Duration
	}{
		{os.Interrupt, 10 * time.Second},   // fast shutdown: disconnects clients
		{syscall.SIGQUIT, 5 * time.Second}, // immediate shutdown: as in a crash
		{os.Kill, 5 * time.Second},
	} {
		if c.server.Process.Signal(step.signal) == nil && c.endsWithin(step.grace) {
			break
		}
	}
	return ""
}

func (c *cluster) endsWithin(d time.Duration) bool {
	select {
	case <-c.ended:
		return true
	case <-time.After(d):
		return false
	}
}

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }
func (c *cluster) log() string  { return filepath.Join(c.dir, "log") }

func (c *cluster) logTail() string {
	log, err := os.ReadFile(c.log())
	if err != nil {
		return err.Error()
	}
	return tail(log)
}

// tail is the last lines of text.
func tail(text []byte) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-20):], []byte("\n")))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
