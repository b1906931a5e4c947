package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// cluster is a PostgreSQL server of our own that can be stopped and started.
// Its methods are called one at a time.
type cluster struct {
	bin   string
	dir   string // holds data/ and log
	port  int
	attr  *syscall.SysProcAttr // of its programs
	log   *os.File
	ended chan error // what the server process ended with
	pid   int
}

// startCluster makes a server in a new directory inside dir and starts it.
func startCluster(ctx context.Context, dir string) (*cluster, error) {
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	c := &cluster{bin: bin, dir: filepath.Join(dir, "postgres")}
	if err := c.makeHome(); err != nil {
		return nil, err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", c.data(),
		"-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = c.dir, c.attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if c.log, err = os.Create(filepath.Join(c.dir, "log")); err != nil {
		return nil, err
	}
	if c.port, err = freePort(); err != nil {
		return nil, err
	}
	return c, c.start(ctx)
}

// findBinaries returns the directory of initdb and postgres: $PG_BIN, or where
// the PATH has them, or the newest of where packages put them.
func findBinaries() (string, error) {
	if dir := os.Getenv("PG_BIN"); dir != "" {
		return dir, nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path), nil
	}
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"} {
		dirs, _ := filepath.Glob(pattern + "/initdb") // the only error is a bad pattern
		found = append(found, dirs...)
	}
	if len(found) == 0 {
		return "", errors.New("no PostgreSQL server programs were found: install them (package postgresql), set PG_BIN to the directory of initdb and postgres, or give -url a server that runs")
	}
	return filepath.Dir(slices.Max(found)), nil
}

// makeHome makes the server's directory. PostgreSQL refuses to run as root;
// there it runs as user postgres or nobody, who then owns the directory.
func (c *cluster) makeHome() error {
	c.attr = &syscall.SysProcAttr{Setpgid: true}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return errors.New("no user postgres or nobody, and PostgreSQL refuses to run as root: run this as another user, or give -url a server that runs")
	}
	uid, err := strconv.Atoi(account.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(account.Gid)
	if err != nil {
		return err
	}
	c.attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(c.dir, uid, gid)
}

// start starts the server on its port and returns when it takes connections.
func (c *cluster) start(ctx context.Context) error {
	args := []string{"-D", c.data()}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(c.port),
		"unix_socket_directories=",
		"max_connections=400",
		"shared_buffers=128MB",
		"fsync=off", // the data need not survive the machine, only the server's processes
		"timezone=UTC",
		"log_timezone=UTC",
	} {
		args = append(args, "-c", setting)
	}
	server := exec.Command(filepath.Join(c.bin, "postgres"), args...)
	server.Dir, server.SysProcAttr = c.dir, c.attr
	server.Stdout, server.Stderr = c.log, c.log
	if err := server.Start(); err != nil {
		return err
	}
	c.pid, c.ended = server.Process.Pid, make(chan error, 1)
	go func() { c.ended <- server.Wait() }() // stop waits for it
	if err := c.ready(ctx); err != nil {
		return fmt.Errorf("start postgres: %w; its log ends:\n%s", err, c.logTail())
	}
	return nil
}

func (c *cluster) ready(ctx context.Context) error {
	db, err := openDatabase(c.url())
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case end := <-c.ended:
			c.ended <- end
			return fmt.Errorf("the server ended: %w", errors.Join(end, err))
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop stops the server and waits for its end: SIGINT is a fast shutdown, which
// disconnects clients, SIGQUIT an immediate one, as in a crash.
func (c *cluster) stop(how syscall.Signal) error {
	if c.pid == 0 {
		return nil
	}
	if err := syscall.Kill(c.pid, how); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	select {
	case <-c.ended:
	case <-time.After(2 * time.Minute):
		return fmt.Errorf("postgres did not stop within two minutes of %v; its log ends:\n%s", how, c.logTail())
	}
	c.pid = 0
	return nil
}

func (c *cluster) close() error { return errors.Join(c.stop(syscall.SIGQUIT), c.log.Close()) }

func (c *cluster) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)) }
func (c *cluster) url() string {
	return "postgres://postgres@" + c.address() + "/postgres?sslmode=disable"
}
func (c *cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *cluster) logTail() string {
	log, err := os.ReadFile(c.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-20):], []byte("\n")))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
