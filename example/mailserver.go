package main

import (
	"io"
	"net"
	"slices"
	"sync"

	"github.com/emersion/go-smtp"
)

// mailServer is an SMTP server on a loopback port. It keeps the mail that it
// accepts; while it is down, it accepts none and says so.
type mailServer struct {
	addr  string
	close func() error

	mu   sync.Mutex
	down bool
	kept []email
}

type email struct{ to, message string }

func startMailServer() (*mailServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &mailServer{addr: listener.Addr().String(), close: listener.Close}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &mailSession{mailServer: m}, nil
	}))
	server.EnableSMTPUTF8 = true
	go server.Serve(listener) // until close
	return m, nil
}

func (m *mailServer) setDown(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

func (m *mailServer) mails() []email {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.kept)
}

// mailSession is what go-smtp calls for the commands of one connection.
type mailSession struct {
	*mailServer
	to string
}

func (s *mailSession) Mail(string, *smtp.MailOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "the mail server is down for maintenance"}
	}
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = to
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	message, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, email{s.to, string(message)})
	return nil
}

func (s *mailSession) Reset()        {}
func (s *mailSession) Logout() error { return nil }
