package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// guard is a shell that outlives this program, however it ends, by just long
// enough to leave nothing behind: neither a child process, be it stopped, nor
// the directory. It waits on a pipe whose other end only this program holds.
// The children are in its process group; the server has a guard of its own.
type guard struct {
	shell *exec.Cmd
	pipe  *os.File
}

func startGuard(dir string) (*guard, error) {
	const script = `
		read -r keep
		test -n "$keep" || rm -rf "$1" || { sleep 1; rm -rf "$1"; }
		kill -KILL 0`
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	shell := exec.Command("/bin/sh", "-c", script, "sh", dir)
	shell.Dir = "/"
	shell.Stdin, shell.Stderr = r, os.Stderr
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := shell.Start(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &guard{shell: shell, pipe: w}, nil
}

// attributes are those of a child process.
func (g *guard) attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pgid: g.shell.Process.Pid}
}

// release cleans up and waits for that; if keep, the directory stays.
func (g *guard) release(keep bool) {
	if keep {
		_, _ = g.pipe.WriteString("keep\n") // if the shell is gone, it has removed it already
	}
	_ = g.pipe.Close()
	_ = g.shell.Wait() // it kills itself last
}
