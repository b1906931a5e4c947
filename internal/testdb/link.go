package testdb

import (
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Link is a network between a test and its database whose connections can be
// cut, and which counts what the database sends. The server is not told of the end.
type Link struct {
	URL string // of the database, through the link

	mu                sync.Mutex
	clients, upstream []net.Conn
	received          atomic.Int64
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
		_, _ = io.Copy(client, counted{upstream, &l.received})
		_ = client.Close()
	}()
}

// Received is how many bytes the database has sent.
func (l *Link) Received() int64 { return l.received.Load() }

// counted counts what is read.
type counted struct {
	io.Reader
	bytes *atomic.Int64
}

func (c counted) Read(into []byte) (int, error) {
	n, err := c.Reader.Read(into)
	c.bytes.Add(int64(n))
	return n, err
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
