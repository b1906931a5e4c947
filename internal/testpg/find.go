package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const oldestMajor = 13

// binaries is a directory with the programs of one Postgres version.
type binaries struct {
	dir   string
	major int
}

var errNoServer = errors.New("no Postgres server programs were found: install them (package postgresql or postgresql-server), set PG_BIN to the directory of initdb and postgres, or set " + urlVariable + " to a server that runs")

func findOrInstall(ctx context.Context, stderr io.Writer) (binaries, error) {
	found, err := find()
	if !errors.Is(err, errNoServer) {
		return found, err
	}
	if err := install(ctx, stderr); err != nil {
		return binaries{}, err
	}
	return find()
}

// find returns the programs in $PG_BIN when that is set; else those on the
// PATH; else the newest in the places where packages put them.
func find() (binaries, error) {
	if dir := os.Getenv("PG_BIN"); dir != "" {
		b, err := inspect(dir)
		if err != nil {
			return binaries{}, fmt.Errorf("PG_BIN must be the directory of initdb and postgres: %w", err)
		}
		return choose([]binaries{b})
	}
	var all []binaries
	if path, err := exec.LookPath("postgres"); err == nil {
		if b, err := inspect(filepath.Dir(path)); err == nil {
			if b.major >= oldestMajor {
				return b, nil
			}
			all = append(all, b)
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",             // Debian, Ubuntu
		"/usr/pgsql-*/bin",                      // the Postgres project's RPMs
		"/usr/libexec/postgresql*",              // Alpine
		"/opt/homebrew/opt/postgresql*/bin",     // Homebrew, Apple silicon
		"/usr/local/opt/postgresql*/bin",        // Homebrew, Intel
		"/home/linuxbrew/*/opt/postgresql*/bin", // Homebrew, Linux
	} {
		dirs, _ := filepath.Glob(pattern) // the only error is a bad pattern
		for _, dir := range dirs {
			if b, err := inspect(dir); err == nil {
				all = append(all, b)
			}
		}
	}
	return choose(all)
}

// choose returns the newest of all.
func choose(all []binaries) (binaries, error) {
	if len(all) == 0 {
		return binaries{}, errNoServer
	}
	newest := all[0]
	for _, b := range all {
		if b.major > newest.major {
			newest = b
		}
	}
	if newest.major < oldestMajor {
		return binaries{}, fmt.Errorf("the newest server programs found, in %s, are Postgres %d: install version %d or newer, set PG_BIN to the directory of initdb and postgres, or set %s to a server that runs", newest.dir, newest.major, oldestMajor, urlVariable)
	}
	return newest, nil
}

func inspect(dir string) (binaries, error) {
	if _, err := exec.LookPath(filepath.Join(dir, "initdb")); err != nil {
		return binaries{}, err
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return binaries{}, err
	}
	major, err := parseMajor(string(out))
	return binaries{dir, major}, err
}

// parseMajor reads the 15 in "postgres (PostgreSQL) 15.14 (Debian 15.14-0)".
func parseMajor(version string) (int, error) {
	_, number, _ := strings.Cut(version, ") ")
	digits := number[:len(number)-len(strings.TrimLeft(number, "0123456789"))]
	major, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("no version number in %q", version)
	}
	return major, nil
}
