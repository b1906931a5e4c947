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

func guard(dir string, keep bool) (release func(), err error) {
	return func() {
		if !keep {
			_ = os.RemoveAll(dir)
		}
	}, nil
}

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
