//go:build unix

package beside

import (
	"errors"
	"os"
	"os/exec"
)

// Guard starts a shell that outlives this process, however it ends, by just
// long enough to stop the server that runs in dir and remove dir. The script
// stops it; $1 is dir. The shell waits on a pipe whose other end only this
// process holds; release closes it and waits. After keep, dir stays.
func Guard(dir, script string) (keep, release func(), err error) {
	script = `
		while read -r word; do keep=$word; done
		` + script + `
		test -n "$keep" || rm -rf "$1" || { sleep 1; rm -rf "$1"; }`
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", script, "sh", dir)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	cmd.SysProcAttr = OwnGroup()
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(err, w.Close())
	}
	keep = func() { _, _ = w.WriteString("keep\n") } // if the shell is gone, it has removed it already
	release = func() {
		_ = w.Close()
		_ = cmd.Wait() // what it could not remove is on standard error
	}
	return keep, release, nil
}
