package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// proxy stands between one process and the database and passes everything on,
// until it is told to cut connections or to delay what they carry. Its faults
// are called one at a time.
//
// Toxiproxy was here before: it deadlocks now and then when a toxic is removed
// while a connection ends.
type proxy struct {
	name     string
	upstream string
	address  string // where the process finds it

	mu       sync.Mutex
	listener net.Listener
	links    map[net.Conn]net.Conn // by the client's connection, the server's
	down     bool                  // new connections are reset
	latency  time.Duration         // of what is read from now on
	over     chan struct{}         // closed when the latency is

	accepting sync.WaitGroup
}

// startProxy listens on a free port.
func startProxy(name, upstream string) (*proxy, error) {
	p := &proxy{name: name, upstream: upstream, address: "127.0.0.1:0", links: map[net.Conn]net.Conn{}, over: make(chan struct{})}
	listener, err := net.Listen("tcp", p.address)
	if err != nil {
		return nil, fmt.Errorf("start the proxy of %s: %w", name, err)
	}
	p.listener, p.address = listener, listener.Addr().String()
	p.accepting.Go(p.accept)
	return p, nil
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.upstream)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		down := p.down
		if down {
			reset(client, server)
		} else {
			p.links[client] = server
		}
		p.mu.Unlock()
		if down {
			continue
		}
		go p.pass(client, server, client)
		go p.pass(server, client, client)
	}
}

// pass copies from one side to the other until either ends, and ends both.
func (p *proxy) pass(from, to, client net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.wait()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = from.Close(), to.Close()
	p.mu.Lock()
	delete(p.links, client)
	p.mu.Unlock()
}

// wait lasts as long as what has just been read is delayed.
func (p *proxy) wait() {
	p.mu.Lock()
	latency, over := p.latency, p.over
	p.mu.Unlock()
	if latency == 0 {
		return
	}
	select {
	case <-time.After(latency):
	case <-over:
	}
}

// stop resets all connections and takes no new ones any more.
func (p *proxy) stop() {
	p.takeDown()
	_ = p.listener.Close()
	p.accepting.Wait()
}

// cut resets all connections, and new ones until down is over. It keeps its port
// meanwhile, which an outgoing connection of somebody's might get otherwise.
func (p *proxy) cut(ctx context.Context, down time.Duration) {
	p.takeDown()
	pauseFor(ctx, down)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

func (p *proxy) takeDown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for client, server := range p.links {
		reset(client, server)
	}
}

// reset ends connections without a farewell.
func reset(conns ...net.Conn) {
	for _, conn := range conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

// delay slows every connection down by latency, until lasting is over. What is
// on its way then arrives at once: with a latency longer than lasting it is a
// stall, after which statements arrive late – unless their connection has ended
// meanwhile, when they arrive all the same.
func (p *proxy) delay(ctx context.Context, latency, lasting time.Duration) {
	p.mu.Lock()
	p.latency = latency
	p.mu.Unlock()
	pauseFor(ctx, lasting)
	p.mu.Lock()
	p.latency = 0
	close(p.over)
	p.over = make(chan struct{})
	p.mu.Unlock()
}
