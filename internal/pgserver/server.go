// Package pgserver finds the programs of a Postgres server that is installed
// and starts throwaway servers from them, also as root.
package pgserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	_ "github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/beside"
)

// Server is a running Postgres server that ends, and leaves no files, at the
// latest when this process does.
type Server struct {
	URL string // a superuser's
	Dir string // holds data/ and log

	bin      string
	port     *beside.Port
	settings []string
	attr     *syscall.SysProcAttr
	process  *exec.Cmd
	ended    chan struct{} // closed when the server process is gone
	keep     func()        // Dir, when it is let go of
	release  func()        // lets go of Dir
}

// Start initialises and starts a server and returns when it accepts
// connections. Settings are added to what suits a throwaway server; a later
// one of a name wins.
func Start(ctx context.Context, bin Binaries, settings ...string) (*Server, error) {
	dir, attr, err := makeHome()
	if err != nil {
		return nil, err
	}
	keep, release, err := beside.Guard(dir, stop)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &Server{Dir: dir, bin: bin.Dir, settings: settings, attr: attr, keep: keep, release: release}
	if err := s.initialise(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) initialise(ctx context.Context) error {
	initdb := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), "-D", s.Data(),
		"-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = s.Dir, s.attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, beside.Tail(out))
	}
	var err error
	for range 3 { // another process may take the free port first
		s.port.Release()
		if s.port, err = beside.ReservePort(); err != nil {
			return err
		}
		s.URL = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", s.port.Number)
		if err = s.Launch(ctx); err == nil || !s.over() || !beside.Taken(s.port.Number) {
			break
		}
	}
	return err
}

// Launch starts the server process, again after it has ended, at the same
// address, and waits until it is ready.
func (s *Server) Launch(ctx context.Context) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()

	args := []string{"-D", s.Data()}
	for _, setting := range append([]string{
		"listen_addresses=127.0.0.1",
		fmt.Sprintf("port=%d", s.port.Number),
		"unix_socket_directories=",
		"max_connections=500",
		"shared_buffers=256MB",
		"fsync=off", // the data need not survive the machine
		"full_page_writes=off",
		"max_prepared_transactions=0",
		"timezone=UTC",
		"log_timezone=UTC",
	}, s.settings...) {
		args = append(args, "-c", setting)
	}
	process := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	process.Dir, process.SysProcAttr = s.Dir, s.attr
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = process.Wait() // why it ended is in its log
	}()
	s.process, s.ended = process, ended
	if err := s.ready(ctx); err != nil {
		return fmt.Errorf("start postgres: %w; its log ends:\n%s", err, s.logTail())
	}
	return nil
}

// over says whether the server process has ended.
func (s *Server) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := Ping(ctx, s.URL)
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return errors.New("the server ended")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends the server and lets go of its files. If the server had ended
// before it was asked to, Stop returns the end of its log.
func (s *Server) Stop() (died string) {
	defer s.release()
	defer s.port.Release()
	if s.process == nil {
		return ""
	}
	select {
	case <-s.ended:
		return s.logTail()
	default:
		s.Halt()
		return ""
	}
}

// Keep makes Dir stay behind.
func (s *Server) Keep() { s.keep() }

// Halt ends the server process as a shutdown does that disconnects clients;
// Launch starts it again.
func (s *Server) Halt() {
	for _, step := range []struct {
		signal os.Signal
		grace  time.Duration
	}{
		{os.Interrupt, 10 * time.Second},   // fast shutdown
		{syscall.SIGQUIT, 5 * time.Second}, // immediate shutdown
		{os.Kill, 5 * time.Second},
	} {
		if s.process.Process.Signal(step.signal) == nil && s.EndsWithin(step.grace) {
			return
		}
	}
}

// Crash ends the server process at once, whatever it is doing, as a crash
// does: nobody is answered, and the next start recovers from the log.
func (s *Server) Crash() error {
	if err := s.process.Process.Signal(syscall.SIGQUIT); err != nil {
		return err
	}
	if !s.EndsWithin(10 * time.Second) {
		return errors.New("the server survived its immediate shutdown by 10 s")
	}
	return nil
}

// EndsWithin says whether the server process is gone, after d at the latest.
func (s *Server) EndsWithin(d time.Duration) bool {
	select {
	case <-s.ended:
		return true
	case <-time.After(d):
		return false
	}
}

// Ended is closed when the server process is gone.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// Data is the directory of the server's files.
func (s *Server) Data() string { return filepath.Join(s.Dir, "data") }

func (s *Server) log() string { return filepath.Join(s.Dir, "log") }

// Log returns what the server has logged.
func (s *Server) Log() (string, error) {
	log, err := os.ReadFile(s.log())
	return string(log), err
}

func (s *Server) logTail() string {
	log, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	return beside.Tail(log)
}

// Ping connects once. It returns when ctx ends even where lib/pq would not: in
// the middle of the handshake.
func Ping(ctx context.Context, url string) error {
	db, err := sql.Open("postgres", url)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() { result <- errors.Join(db.PingContext(ctx), db.Close()) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
