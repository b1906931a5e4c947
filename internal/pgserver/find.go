package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const oldestMajor = 13

// Binaries is a directory with the programs of one Postgres version.
type Binaries struct {
	Dir   string
	Major int
}

// ErrNotFound is returned by Find where no server is installed.
var ErrNotFound = errors.New("no Postgres server programs were found: install them (package postgresql or postgresql-server), or set PG_BIN to the directory of initdb and postgres")

// Find returns the programs in $PG_BIN when that is set; else those on the
// PATH; else the newest in the places where packages put them.
func Find() (Binaries, error) {
	if dir := os.Getenv("PG_BIN"); dir != "" {
		b, err := inspect(dir)
		if err != nil {
			return Binaries{}, fmt.Errorf("PG_BIN must be the directory of initdb and postgres: %w", err)
		}
		return choose([]Binaries{b})
	}
	var all []Binaries
	if path, err := exec.LookPath("postgres"); err == nil {
		if b, err := inspect(filepath.Dir(path)); err == nil {
			if b.Major >= oldestMajor {
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
func choose(all []Binaries) (Binaries, error) {
	if len(all) == 0 {
		return Binaries{}, ErrNotFound
	}
	newest := all[0]
	for _, b := range all {
		if b.Major > newest.Major {
			newest = b
		}
	}
	if newest.Major < oldestMajor {
		return Binaries{}, fmt.Errorf("the newest server programs found, in %s, are Postgres %d: install version %d or newer, or set PG_BIN to the directory of initdb and postgres", newest.Dir, newest.Major, oldestMajor)
	}
	return newest, nil
}

func inspect(dir string) (Binaries, error) {
	if _, err := exec.LookPath(filepath.Join(dir, "initdb")); err != nil {
		return Binaries{}, err
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return Binaries{}, err
	}
	major, err := parseMajor(string(out))
	return Binaries{dir, major}, err
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
