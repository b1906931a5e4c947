//go:build !unix

package beside

import (
	"os"
	"syscall"
)

// OwnGroup keeps what is typed at the terminal away from a child.
func OwnGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func signalGroup(leader *os.Process, _ os.Signal) { _ = leader.Kill() }

func groupLives(*os.Process) bool { return false }
