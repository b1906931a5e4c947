// Package kafkaserver runs throwaway Apache Kafka brokers, from the jars that
// Maven has of them. It needs Java.
package kafkaserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/reprise-bus/reprise/internal/beside"
)

// Server is a broker that ends, and leaves no files, at the latest when this
// process does.
type Server struct {
	Addr string // host:port
	Dir  string // holds data/, log and server.properties

	java, classpath string
	process         *exec.Cmd
	ended           chan struct{} // closed when the process is gone
	release         func()        // lets go of Dir
	ports           []*beside.Port
}

// Options set what a broker does. A zero field means its default.
type Options struct {
	// Partitions is how many a topic gets that is made without saying; default 1.
	Partitions int

	// Settings are added to the broker's properties, each a NAME=VALUE. A later
	// one of a name wins, over the defaults as well.
	Settings []string
}

// Start starts a broker and returns when it answers.
func Start(ctx context.Context, options Options) (*Server, error) {
	java, err := findJava()
	if err != nil {
		return nil, err
	}
	classpath, err := classpath(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "reprise-testkafka-")
	if err != nil {
		return nil, err
	}
	_, release, err := beside.Guard(dir, stop)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &Server{Dir: dir, java: java, classpath: classpath, release: release}
	for range 3 { // another process may take the free ports first
		if err = s.initialise(ctx, options); !errors.Is(err, errTaken) {
			break
		}
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) initialise(ctx context.Context, options Options) error {
	s.releasePorts()
	s.ports = nil
	for range 2 {
		port, err := beside.ReservePort()
		if err != nil {
			return err
		}
		s.ports = append(s.ports, port)
	}
	port, controller := s.ports[0].Number, s.ports[1].Number
	s.Addr = "127.0.0.1:" + strconv.Itoa(port)
	properties := append([]string{
		"process.roles=broker,controller",
		"node.id=1",
		fmt.Sprintf("controller.quorum.voters=1@127.0.0.1:%d", controller),
		"controller.listener.names=CONTROLLER",
		fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://127.0.0.1:%d", s.Addr, controller),
		"advertised.listeners=PLAINTEXT://" + s.Addr,
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs=" + filepath.ToSlash(s.data()),
		"num.partitions=" + strconv.Itoa(max(options.Partitions, 1)),
		"auto.create.topics.enable=true",
		"group.initial.rebalance.delay.ms=0",
		"broker.heartbeat.interval.ms=500",
		"broker.session.timeout.ms=2500",         // after a crash, a start waits for the end of the last session
		"log.cleaner.dedupe.buffer.size=8388608", // of 128 MiB, it would be a third of the heap
		"log.cleaner.threads=1",
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=1",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"transaction.state.log.num.partitions=1",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
		"share.coordinator.state.topic.num.partitions=1",
	}, options.Settings...)
	if err := os.WriteFile(s.properties(), []byte(strings.Join(properties, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(s.data()); err != nil {
		return err
	}
	format := exec.CommandContext(ctx, s.java, s.arguments("kafka.tools.StorageTool", "format", "-t", "cmVwcmlzZS10ZXN0a2Fma2E", "-c", s.properties())...)
	format.SysProcAttr = beside.OwnGroup()
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("format Kafka's storage: %w\n%s", err, beside.Tail(out))
	}
	err := s.Restart(ctx)
	if err != nil && (beside.Taken(port) || beside.Taken(controller)) {
		return fmt.Errorf("%w: %w", errTaken, err)
	}
	return err
}

var errTaken = errors.New("another process took the port")

// Restart starts the broker again after it has ended, at the same address and
// with the same data, and waits until it answers.
func (s *Server) Restart(ctx context.Context) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	start, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	process := command(s.pidFile(), s.java, s.arguments("kafka.Kafka", s.properties()))
	process.Dir, process.SysProcAttr = s.Dir, beside.OwnGroup()
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = process.Wait() // why it ended is in its log
		_ = os.Remove(s.pidFile())
	}()
	s.process, s.ended = process, ended
	if err := s.ready(ctx); err != nil {
		err = fmt.Errorf("start Kafka: %w; its log ends:\n%s", err, s.logTail(start))
		s.Kill()
		return err
	}
	return nil
}

// arguments are those of a small Java machine that starts quickly. Among the
// warnings that it logs is why it ended.
func (s *Server) arguments(class string, args ...string) []string {
	return append([]string{
		"-Xmx384m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
		"-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-cp", s.classpath, class,
	}, args...)
}

func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := Ping(ctx, s.Addr)
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return errors.New("the broker ended")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Ping asks one of the brokers once.
func Ping(ctx context.Context, addrs ...string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.DialTimeout(5*time.Second), kgo.RequestRetries(0), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Ping(ctx)
}

// Stop ends the broker as a shutdown does; Restart starts it again.
func (s *Server) Stop() {
	if s.process.Process.Signal(syscall.SIGTERM) != nil || !s.endsWithin(20*time.Second) {
		s.Kill()
	}
}

// Kill ends the broker at once, whatever it is doing, as a crash does; Restart
// starts it again.
func (s *Server) Kill() {
	_ = s.process.Process.Kill() // fails only when it has ended
	<-s.ended
}

// Close ends the broker for good and removes its files. If it had ended before
// anybody asked it to, Close returns the end of its log.
func (s *Server) Close() (died string) {
	defer s.release()
	defer s.releasePorts()
	if s.process == nil {
		return ""
	}
	select {
	case <-s.ended:
		return s.logTail(0)
	default:
		s.Kill()
		return ""
	}
}

func (s *Server) releasePorts() {
	for _, port := range s.ports {
		port.Release()
	}
}

// Ended is closed when the process of the broker is gone.
func (s *Server) Ended() <-chan struct{} { return s.ended }

func (s *Server) endsWithin(d time.Duration) bool {
	select {
	case <-s.ended:
		return true
	case <-time.After(d):
		return false
	}
}

func (s *Server) data() string       { return filepath.Join(s.Dir, "data") }
func (s *Server) log() string        { return filepath.Join(s.Dir, "log") }
func (s *Server) pidFile() string    { return filepath.Join(s.Dir, "pid") }
func (s *Server) properties() string { return filepath.Join(s.Dir, "server.properties") }

// logTail is the end of what the broker has logged since it had logged so much.
func (s *Server) logTail(since int64) string {
	log, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	return beside.Tail(log[min(since, int64(len(log))):])
}
