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

// Port is a TCP port of 127.0.0.1 for a server that is started and stopped. While
// the server is down, nobody else who reserves ports gets it, in whatever process:
// the UDP port of the same number is kept busy.
type Port struct {
	Number int
	kept   net.PacketConn
}

// ReservePort returns a port that nobody uses. It looks below the ports that systems
// give to clients: one of those might take it while the server is down.
func ReservePort() (*Port, error) {
	const lowest, n, tries = 20000, 12000, 100
	var err error
	for range tries {
		p := &Port{Number: lowest + rand.IntN(n)}
		address := fmt.Sprintf("127.0.0.1:%d", p.Number)
		if p.kept, err = net.ListenPacket("udp", address); err != nil {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return p, l.Close()
		}
		p.Release()
	}
	return nil, err
}

// Release lets others have the port. It may be called on nil.
func (p *Port) Release() {
	if p != nil {
		_ = p.kept.Close() // fails only when it is closed already
	}
}

// Taken says whether somebody else listens on a port, which a server of ours that
// has ended was to have.
func Taken(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return true
	}
	_ = l.Close()
	return false
}
