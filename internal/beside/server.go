package beside

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
)

// Tail returns the last lines of a server's log.
func Tail(log []byte) string {
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-30):], []byte("\n")))
}

// FreePort returns one for a server that is started and stopped. It looks below
// the ports that systems give to clients: one of those might take it while the
// server is down.
func FreePort() (int, error) {
	const lowest, n, tries = 20000, 12000, 100
	var err error
	for range tries {
		var l net.Listener
		port := lowest + rand.IntN(n)
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

// Free says whether a server could listen on the port now.
func Free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	return err == nil && l.Close() == nil
}
