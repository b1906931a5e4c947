//go:build unix

package main

import (
	"os"
	"syscall"
)

// ownGroup keeps what is typed at the terminal away from a child.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// signalGroup sends s to a process started with ownGroup and all its children.
func signalGroup(leader *os.Process, s os.Signal) {
	_ = syscall.Kill(-leader.Pid, s.(syscall.Signal)) // fails only when all are gone
}
