//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// makeHome makes a directory for a server, and the attributes with which to
// start its programs. Postgres refuses to run as root; there they run as user
// postgres or nobody, who then owns the directory.
func makeHome() (dir string, attr *syscall.SysProcAttr, err error) {
	attr = ownGroup()
	if os.Geteuid() != 0 {
		dir, err = os.MkdirTemp("", "reprise-testpg-")
		return dir, attr, err
	}
	uid, gid, err := serverAccount()
	if err != nil {
		return "", nil, err
	}
	parent, err := openParent(os.TempDir(), "/tmp", "/var/tmp")
	if err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(parent, "reprise-testpg-"); err != nil {
		return "", nil, err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return dir, attr, nil
}

func serverAccount() (uid, gid int, err error) {
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return 0, 0, errors.New("no user postgres or nobody, and Postgres refuses to run as root: run this as another user")
	}
	uid, err = strconv.Atoi(account.Uid)
	if err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(account.Gid)
	return uid, gid, err
}

// openParent returns the first of dirs that every user can reach.
func openParent(dirs ...string) (string, error) {
	for _, dir := range dirs {
		if reachable(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("none of %q can be reached by every user: set TMPDIR to a directory that can", dirs)
}

func reachable(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

// guard starts a shell that outlives this process, however it ends, by just
// long enough to stop the server in dir and remove dir. It waits on a pipe
// whose other end only this process holds; release closes it and waits. After
// keep, dir stays.
func guard(dir string) (keep, release func(), err error) {
	const script = `
		while read -r word; do keep=$word; done
		file=$1/data/postmaster.pid # the server removes it last
		pid=$(head -n 1 "$file" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null &&
			for _ in 1 2 3 4 5; do
				test -e "$file" && sleep 1
			done
		test -n "$keep" || rm -rf "$1" || { sleep 1; rm -rf "$1"; }`
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", script, "sh", dir)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	cmd.SysProcAttr = ownGroup()
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

// ownGroup keeps what is typed at the terminal away from a child.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
