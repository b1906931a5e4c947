package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/beside"
)

// ErrNoBouncer is returned by FindBouncer where no PgBouncer is installed.
var ErrNoBouncer = errors.New("PgBouncer was not found: install the package pgbouncer")

// FindBouncer returns the path of the program pgbouncer: on the PATH, or where
// packages put it.
func FindBouncer() (string, error) {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer", "/opt/homebrew/bin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoBouncer
}

// Bouncer is a running PgBouncer that ends, and leaves no files, at the latest
// when this process does.
type Bouncer struct {
	URL string // of the database, through the PgBouncer

	dir     string
	process *exec.Cmd
	ended   chan struct{} // closed when the process is gone
	release func()        // lets go of dir
}

// StartBouncer starts a PgBouncer without TLS in transaction mode in front of
// the database and returns when it passes connections on. Settings are lines of
// its configuration; a later one of a name wins.
func StartBouncer(ctx context.Context, address string, settings ...string) (*Bouncer, error) {
	program, err := FindBouncer()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	dir, attr, err := makeHome() // PgBouncer refuses to run as root, too
	if err != nil {
		return nil, err
	}
	_, release, err := beside.Guard(dir, stopBouncer)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	port, err := beside.ReservePort()
	if err != nil {
		release()
		return nil, err
	}
	b := &Bouncer{dir: dir, release: func() { release(); port.Release() }}
	password, _ := u.User.Password()
	database := strings.TrimPrefix(u.Path, "/")
	config := append([]string{
		"[databases]",
		fmt.Sprintf("%s = host=%s port=%s", database, u.Hostname(), u.Port()),
		"[pgbouncer]",
		"listen_addr = 127.0.0.1",
		fmt.Sprintf("listen_port = %d", port.Number),
		"unix_socket_dir =",
		"auth_type = trust",
		"auth_file = " + filepath.Join(dir, "users"),
		"pidfile = " + filepath.Join(dir, "pid"),
		"pool_mode = transaction",
		"max_client_conn = 200",
	}, settings...)
	users := fmt.Sprintf("%q %q\n", u.User.Username(), password)
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "users"), []byte(users), 0o644), // dir is closed to others
		os.WriteFile(filepath.Join(dir, "ini"), []byte(strings.Join(config, "\n")+"\n"), 0o644),
	)
	if err != nil {
		b.release()
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.release()
		return nil, err
	}
	defer log.Close()
	b.process = exec.Command(program, filepath.Join(dir, "ini"))
	b.process.Dir, b.process.SysProcAttr = dir, attr
	b.process.Stdout, b.process.Stderr = log, log
	if err := b.process.Start(); err != nil {
		b.release()
		return nil, err
	}
	b.ended = make(chan struct{})
	go func() {
		defer close(b.ended)
		_ = b.process.Wait() // why it ended is in its log
	}()
	u.Host = fmt.Sprintf("127.0.0.1:%d", port.Number)
	u.RawQuery = "sslmode=disable"
	b.URL = u.String()
	if err := b.ready(ctx); err != nil {
		err = fmt.Errorf("start pgbouncer: %w; its log ends:\n%s", err, b.Log())
		b.Stop()
		return nil, err
	}
	return b, nil
}

func (b *Bouncer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := Ping(ctx, b.URL)
		if err == nil {
			return nil
		}
		select {
		case <-b.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Log returns the end of what PgBouncer has logged.
func (b *Bouncer) Log() string {
	log, err := os.ReadFile(filepath.Join(b.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return beside.Tail(log)
}

// Stop ends PgBouncer at once and removes its files.
func (b *Bouncer) Stop() {
	_ = b.process.Process.Kill()
	<-b.ended
	_ = os.Remove(filepath.Join(b.dir, "pid")) // the guard has nothing left to end
	b.release()
}
