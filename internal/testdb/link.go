package testdb

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Link is a network between a test and its database whose connections can be
// cut. The server is not told of the end.
type Link struct {
	URL string // of the database, through the link

	mu                sync.Mutex
	clients, upstream []net.Conn
}

// NewLink returns a link to the database, which is gone when the test is over.
func NewLink(t testing.TB, address string) *Link {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{}
	server := u.Host
	u.Host = listener.Addr().String()
	l.URL = u.String()
	t.Cleanup(func() {
		_ = listener.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range l.upstream {
			_ = c.Close()
		}
	})
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			l.pass(client, server)
		}
	}()
	return l
}

func (l *Link) pass(client net.Conn, server string) {
	upstream, err := net.Dial("tcp", server)
	if err != nil {
		_ = client.Close()
		return
	}
	l.mu.Lock()
	l.clients, l.upstream = append(l.clients, client), append(l.upstream, upstream)
	l.mu.Unlock()
	go func() { _, _ = io.Copy(upstream, client) }()
	go func() {
		_, _ = io.Copy(client, upstream)
		_ = client.Close()
	}()
}

// Cut ends the connections on this side.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.clients {
		_ = c.Close()
	}
	l.clients = nil
}

// Connections is how many there have been since the last cut.
func (l *Link) Connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.clients)
}
