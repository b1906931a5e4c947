package testbroker

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/reprise-bus/reprise/internal/kafkaserver"
)

// Broker is a Kafka broker of one test, which may break it.
type Broker struct {
	Addr string

	t     testing.TB
	start func(context.Context) error
	stop  func()
	kill  func()
}

// OwnKafka starts a broker that is gone when the test and its subtests are
// over: Apache Kafka, or kfake where there is no Java or the test run does
// without Apache Kafka. Each setting is a NAME=VALUE of Apache Kafka's
// configuration. KAFKA_BROKERS is of no use here.
func OwnKafka(t testing.TB, settings ...string) *Broker {
	t.Helper()
	if os.Getenv("REPRISE_TEST_KAFKA") != "kfake" {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		server, err := kafkaserver.Start(ctx, kafkaserver.Options{Settings: settings})
		if err == nil {
			t.Log("the broker of this test is Apache Kafka")
			t.Cleanup(func() { server.Close() })
			return &Broker{Addr: server.Addr, t: t, start: server.Restart, stop: server.Stop, kill: server.Kill}
		}
		if !errors.Is(err, kafkaserver.ErrNotFound) && !errors.Is(err, kafkaserver.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	t.Log("the broker of this test is kfake, in which a crash is a stop")
	return ownKfake(t, settings)
}

func ownKfake(t testing.TB, settings []string) *Broker {
	t.Helper()
	options := []kfake.Opt{kfake.DataDir(t.TempDir()), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1)}
	configs := map[string]string{}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		switch name {
		case "auto.create.topics.enable":
			if value == "false" {
				options = append(options[:1:1], options[2:]...)
			}
		case "num.partitions":
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			options = append(options, kfake.DefaultNumPartitions(n))
		default:
			configs[name] = value
		}
	}
	options = append(options, kfake.BrokerConfigs(configs))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	options = append(options, kfake.Ports(port))
	b := &Broker{Addr: listener.Addr().String(), t: t}
	var cluster *kfake.Cluster
	b.start = func(context.Context) (err error) {
		cluster, err = kfake.NewCluster(options...)
		return err
	}
	b.stop = func() {
		if cluster != nil {
			cluster.Close()
			cluster = nil
		}
	}
	b.kill = b.stop
	b.Start()
	t.Cleanup(b.stop)
	return b
}

// Start starts the broker again, at the same address and with what was on it.
func (b *Broker) Start() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.start(ctx); err != nil {
		b.t.Fatal(err)
	}
}

// Stop ends the broker as a shutdown does.
func (b *Broker) Stop() { b.stop() }

// Kill ends the broker at once, as a crash does.
func (b *Broker) Kill() { b.kill() }
