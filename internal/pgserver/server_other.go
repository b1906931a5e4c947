//go:build !unix

package pgserver

import (
	"os"
	"syscall"
)

// Where there is no Unix, a server ends with this process only if this
// process ends by itself.

func makeHome() (dir string, attr *syscall.SysProcAttr, err error) {
	dir, err = os.MkdirTemp("", "reprise-testpg-")
	return dir, ownGroup(), err
}

func guard(dir string) (keep, release func(), err error) {
	kept := false
	keep = func() { kept = true }
	release = func() {
		if !kept {
			_ = os.RemoveAll(dir)
		}
	}
	return keep, release, nil
}

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
