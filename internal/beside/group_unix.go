//go:build unix

package beside

import (
	"os"
	"syscall"
)

// OwnGroup keeps what is typed at the terminal away from a child.
func OwnGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// signalGroup sends s to a process started with OwnGroup and all its children.
func signalGroup(leader *os.Process, s os.Signal) {
	_ = syscall.Kill(-leader.Pid, s.(syscall.Signal)) // fails only when all are gone
}

func groupLives(leader *os.Process) bool { return syscall.Kill(-leader.Pid, 0) == nil }
