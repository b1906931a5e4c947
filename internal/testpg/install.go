package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/reprise-bus/reprise/internal/pgserver"
)

var errNoServer = fmt.Errorf("%w, or set %s to a server that runs", pgserver.ErrNotFound, urlVariable)

func findOrInstall(ctx context.Context, stderr io.Writer) (pgserver.Binaries, error) {
	found, err := pgserver.Find()
	if !errors.Is(err, pgserver.ErrNotFound) {
		return found, err
	}
	if err := install(ctx, stderr); err != nil {
		return found, err
	}
	return pgserver.Find()
}

// manager is a system package manager and how it installs a Postgres server.
type manager struct {
	program  string
	refresh  []string // updates the package lists; optional, may fail
	install  []string
	rootless bool // Homebrew refuses to run as root; the others need it
}

func managers() []manager {
	return []manager{
		{
			program: "apt-get",
			refresh: []string{"-q", "-o", "DPkg::Lock::Timeout=120", "update"},
			install: []string{"-q", "-y", "-o", "DPkg::Lock::Timeout=120", "--no-install-recommends", "install", "postgresql"},
		},
		{program: "dnf", install: []string{"install", "-y", "postgresql-server"}},
		{program: "yum", install: []string{"install", "-y", "postgresql-server"}},
		{program: "apk", install: []string{"add", "--no-cache", "postgresql"}},
		{program: "brew", install: []string{"install", "postgresql@16"}, rootless: true},
	}
}

// install installs a Postgres server with the system's package manager if
// that needs nobody's password; errNoServer means it may not.
func install(ctx context.Context, stderr io.Writer) error {
	for _, m := range managers() {
		if _, err := exec.LookPath(m.program); err != nil {
			continue
		}
		prefix, ok := m.privilege(ctx)
		if !ok {
			continue
		}
		if m.refresh != nil {
			_ = m.run(ctx, stderr, prefix, m.refresh)
		}
		if err := m.run(ctx, stderr, prefix, m.install); err != nil {
			return fmt.Errorf("%w; installing them failed (%w)", errNoServer, err)
		}
		return nil
	}
	return errNoServer
}

// privilege is what to put before the manager's command line, and whether
// that may run it.
func (m manager) privilege(ctx context.Context) (prefix []string, ok bool) {
	root := os.Geteuid() == 0
	if m.rootless {
		return nil, !root
	}
	if root {
		return nil, true
	}
	err := exec.CommandContext(ctx, "sudo", "-n", "true").Run()
	return []string{"sudo", "-n"}, err == nil
}

func (m manager) run(ctx context.Context, stderr io.Writer, prefix, args []string) error {
	line := append(prefix[:len(prefix):len(prefix)], "env", "DEBIAN_FRONTEND=noninteractive", m.program)
	line = append(line, args...)
	fmt.Fprintln(stderr, "testpg: no Postgres server programs found, running", strings.Join(line, " "))
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", m.program, err)
	}
	return nil
}
