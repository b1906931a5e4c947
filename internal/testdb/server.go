package testdb

import (
	"context"
	"database/sql"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/reprise-bus/reprise/internal/pgserver"
)

// Server is a Postgres server of one test, which may break it.
type Server struct {
	URL   string  // of an empty database, as its owner, who is no superuser
	Admin *sql.DB // a superuser's pool, on the same database

	t      testing.TB
	server *pgserver.Server
}

// NewServer starts a server that is gone when the test and its subtests are
// over. TEST_DATABASE_URL is of no use here: what breaks a server needs one of
// its own, and fails where no server programs are installed.
func NewServer(t testing.TB, settings ...string) *Server {
	t.Helper()
	bin, err := pgserver.Find()
	if err != nil {
		t.Fatalf("this test breaks a Postgres server of its own, beside any that is given: %v", err)
	}
	server, err := pgserver.Start(context.Background(), bin, append([]string{"shared_buffers=16MB"}, settings...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	for _, statement := range []string{"CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"} {
		if err := exec(server.URL, statement); err != nil {
			t.Fatal(err)
		}
	}
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/app"
	s := &Server{Admin: Open(t, u.String()), t: t, server: server}
	u.User = url.User("app")
	s.URL = u.String()
	return s
}

// Stop shuts the server down: clients are disconnected.
func (s *Server) Stop() { s.server.Halt() }

// Crash ends the server in the middle of whatever it does.
func (s *Server) Crash() {
	s.t.Helper()
	if err := s.server.Crash(); err != nil {
		s.t.Fatal(err)
	}
}

// Start starts the server again, at the same address.
func (s *Server) Start() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.server.Launch(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// Data is the directory of the server's files.
func (s *Server) Data() string { return s.server.Data() }

// Exec runs statements of the superuser.
func (s *Server) Exec(statements ...string) {
	s.t.Helper()
	for _, statement := range statements {
		if _, err := s.Admin.Exec(statement); err != nil {
			s.t.Fatalf("%s: %v", statement, err)
		}
	}
}

// Log returns what the server has logged.
func (s *Server) Log() string {
	s.t.Helper()
	log, err := s.server.Log()
	if err != nil {
		s.t.Fatal(err)
	}
	return log
}

// Logged says how often the server has logged a text.
func (s *Server) Logged(text string) int {
	s.t.Helper()
	return strings.Count(s.Log(), text)
}
