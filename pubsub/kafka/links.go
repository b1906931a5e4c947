package kafka

import (
	"errors"
	"net"
	"sync"

	"github.com/IBM/sarama"
)

// links are the connections of a subscription. Sarama waits for a broker that does not
// answer, even on close. Cut ends that wait.
type links struct {
	dialer interface {
		Dial(network, address string) (net.Conn, error)
	}

	mu   sync.Mutex
	cut  bool
	open map[*link]struct{}
}

type link struct {
	net.Conn
	all *links
}

// newLinks makes the configuration use links for its connections.
func newLinks(config *sarama.Config) *links {
	l := &links{open: map[*link]struct{}{}, dialer: &net.Dialer{
		Timeout: config.Net.DialTimeout, KeepAlive: config.Net.KeepAlive, LocalAddr: config.Net.LocalAddr,
	}}
	if config.Net.Proxy.Enable {
		l.dialer = config.Net.Proxy.Dialer
	}
	config.Net.Proxy.Enable, config.Net.Proxy.Dialer = true, l
	return l
}

// Dial connects to a broker.
func (l *links) Dial(network, address string) (net.Conn, error) {
	conn, err := l.dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	made := &link{Conn: conn, all: l}
	l.open[made] = struct{}{}
	return made, nil
}

// Close is called by sarama.
func (l *link) Close() error {
	l.all.mu.Lock()
	delete(l.all.open, l)
	l.all.mu.Unlock()
	return l.Conn.Close()
}

// Cut closes all connections and refuses new ones.
func (l *links) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for made := range l.open {
		_ = made.Conn.Close()
	}
}
