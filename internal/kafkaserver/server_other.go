//go:build !unix

package kafkaserver

import "os/exec"

const stop = ""

func command(_, program string, args []string) *exec.Cmd { return exec.Command(program, args...) }
