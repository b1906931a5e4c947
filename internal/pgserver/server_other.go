//go:build !unix

package pgserver

import (
	"os"
	"syscall"

	"github.com/reprise-bus/reprise/internal/beside"
)

func makeHome() (dir string, attr *syscall.SysProcAttr, err error) {
	dir, err = os.MkdirTemp("", "reprise-testpg-")
	return dir, beside.OwnGroup(), err
}

const stop, stopBouncer = "", ""
