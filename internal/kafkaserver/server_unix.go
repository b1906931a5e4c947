//go:build unix

package kafkaserver

import "os/exec"

// stop is the script that ends the broker in the directory $1.
const stop = `pid=$(cat "$1/pid" 2>/dev/null) && kill -KILL "$pid" 2>/dev/null`

// command is the program, whose process id is in the file before it begins.
func command(pidFile, program string, args []string) *exec.Cmd {
	const script = `echo $$ >"$0" && exec "$@"`
	return exec.Command("/bin/sh", append([]string{"-c", script, pidFile, program}, args...)...)
}
