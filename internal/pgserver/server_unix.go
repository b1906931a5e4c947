//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/reprise-bus/reprise/internal/beside"
)

// makeHome makes a directory for a server, and the attributes with which to
// start its programs. Postgres refuses to run as root; there they run as user
// postgres or nobody, who then owns the directory.
func makeHome() (dir string, attr *syscall.SysProcAttr, err error) {
	attr = beside.OwnGroup()
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

// stop is the script that ends the server in the directory $1. The server
// removes its file last.
const stop = `
	file=$1/data/postmaster.pid
	pid=$(head -n 1 "$file" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null &&
		for _ in 1 2 3 4 5; do
			test -e "$file" && sleep 1
		done`

// stopBouncer is the script that ends the PgBouncer in the directory $1.
const stopBouncer = `pid=$(head -n 1 "$1/pid" 2>/dev/null) && kill -KILL "$pid" 2>/dev/null`
