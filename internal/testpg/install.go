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
	switch err := install(ctx, stderr, "a Postgres server", serverPackages); {
	case errors.Is(err, errNoManager):
		return found, errNoServer
	case err != nil:
		return found, fmt.Errorf("%w; installing them failed (%w)", errNoServer, err)
	}
	return pgserver.Find()
}

// manager is a system package manager and how it installs packages.
type manager struct {
	program  string
	refresh  []string // updates the package lists; optional, may fail
	install  []string // before the package's name
	rootless bool     // Homebrew refuses to run as root; the others need it
}

func managers() []manager {
	return []manager{
		{
			program: "apt-get",
			refresh: []string{"-q", "-o", "DPkg::Lock::Timeout=120", "update"},
			install: []string{"-q", "-y", "-o", "DPkg::Lock::Timeout=120", "--no-install-recommends", "install"},
		},
		{program: "dnf", install: []string{"install", "-y"}},
		{program: "yum", install: []string{"install", "-y"}},
		{program: "apk", install: []string{"add", "--no-cache"}},
		{program: "brew", install: []string{"install"}, rootless: true},
	}
}

// packages are the names of a package, by the program of the manager.
type packages map[string]string

var serverPackages = packages{
	"apt-get": "postgresql", "dnf": "postgresql-server", "yum": "postgresql-server", "apk": "postgresql", "brew": "postgresql@16",
}

var errNoManager = errors.New("no package manager may be used here without asking")

// install installs a package with the system's package manager if that needs
// nobody's password; errNoManager means that it may not.
func install(ctx context.Context, stderr io.Writer, what string, names packages) error {
	for _, m := range managers() {
		name, known := names[m.program]
		if _, err := exec.LookPath(m.program); err != nil || !known {
			continue
		}
		prefix, ok := m.privilege(ctx)
		if !ok {
			continue
		}
		fmt.Fprintf(stderr, "testpg: %s is missing\n", what)
		if m.refresh != nil {
			_ = m.run(ctx, stderr, prefix, m.refresh)
		}
		return m.run(ctx, stderr, prefix, append(m.install, name))
	}
	return errNoManager
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
	fmt.Fprintln(stderr, "testpg: running", strings.Join(line, " "))
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", m.program, err)
	}
	return nil
}
