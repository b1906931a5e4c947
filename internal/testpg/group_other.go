//go:build !unix

package main

import (
	"os"
	"syscall"
)

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func signalGroup(leader *os.Process, _ os.Signal) { _ = leader.Kill() }
