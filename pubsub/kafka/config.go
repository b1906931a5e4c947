package kafka

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/reprise-bus/reprise/internal/parameters"
)

// Config says how Kafka is reached and used. A zero field means its default.
type Config struct {
	// Brokers are some of the cluster, each host:port.
	Brokers []string

	// ClientID is what brokers call this application in logs and quotas; default
	// "reprise".
	ClientID string

	// GroupPrefix stands before a handler's name in the name of its consumer
	// group, for several services with handlers of one name; default none.
	GroupPrefix string

	// TLS secures the connections; default: they are not.
	TLS *tls.Config

	// Username and Password say who connects, by the SASL mechanism PLAIN,
	// SCRAM-SHA-256 or SCRAM-SHA-512; default PLAIN, and nobody.
	Username  string
	Password  string
	Mechanism string

	// Sarama changes the configuration of a publisher or a subscriber, last. It
	// is called for each.
	Sarama func(*sarama.Config)

	// Logger is told once when nothing can be received, and once when it can be
	// again; default slog.Default().
	Logger *slog.Logger
}

func mechanisms() []string {
	return []string{sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512}
}

// Validate reports every field that has no meaning.
func (c Config) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("field Brokers is empty: want host:port of at least one"))
	}
	for i, broker := range c.Brokers {
		host, port, err := net.SplitHostPort(broker)
		if err == nil && (host == "" || strings.ContainsAny(host, "/@, ")) {
			err = errors.New("no host")
		}
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil { // which is not shown: there may be a password in it
			errs = append(errs, fmt.Errorf("field Brokers: broker %d of %d is not host:port, such as kafka-1:9092", i+1, len(c.Brokers)))
		}
	}
	if c.Mechanism != "" && !slices.Contains(mechanisms(), c.Mechanism) {
		errs = append(errs, fmt.Errorf("field Mechanism %q: want one of %s", c.Mechanism, strings.Join(mechanisms(), ", ")))
	}
	if c.Username == "" && (c.Password != "" || c.Mechanism != "") {
		errs = append(errs, errors.New("field Username is empty: want who has the Password"))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if err := c.producer().Validate(); err != nil {
		return fmt.Errorf("field Sarama: of a publisher: %w", err)
	}
	if err := c.consumer().Validate(); err != nil {
		return fmt.Errorf("field Sarama: of a subscriber: %w", err)
	}
	return nil
}

// common is what publishers and subscribers share.
func (c Config) common() *sarama.Config {
	s := sarama.NewConfig()
	s.ClientID = cmp.Or(c.ClientID, "reprise")
	s.Metadata.Full = false // only what is used here
	s.Metadata.RefreshFrequency = 30 * time.Second
	s.Metadata.Retry.Backoff = 100 * time.Millisecond
	s.Net.DialTimeout = 3 * time.Second
	s.Net.TLS.Enable, s.Net.TLS.Config = c.TLS != nil, c.TLS
	if c.Username != "" {
		s.Net.SASL.Enable = true
		s.Net.SASL.User, s.Net.SASL.Password = c.Username, c.Password
		s.Net.SASL.Mechanism = sarama.SASLMechanism(cmp.Or(c.Mechanism, sarama.SASLTypePlaintext))
		s.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return newSCRAM(c.Mechanism) }
	}
	return s
}

// producer gives up before the application does that waits for it. One request
// at a time to each broker keeps the order through retries; what is published
// meanwhile is the next.
func (c Config) producer() *sarama.Config {
	s := c.common()
	s.Net.MaxOpenRequests = 1
	s.Net.ReadTimeout = 2 * time.Second
	s.Net.WriteTimeout = 2 * time.Second
	s.Metadata.Retry.Max = 5
	s.Metadata.Timeout = 2 * time.Second
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Producer.Idempotent = true
	s.Producer.Transaction.Retry.Max = 10 // times 100 ms, of asking who it is when it connects
	s.Producer.Timeout = 1500 * time.Millisecond
	s.Producer.Retry.Max = 3
	s.Producer.Partitioner = sarama.NewMurmur2Partitioner
	if c.Sarama != nil {
		c.Sarama(s)
	}
	s.Producer.Return.Successes, s.Producer.Return.Errors = true, true // somebody waits for them
	return s
}

// consumer is for one consumer group only, whose strategy has a state.
func (c Config) consumer() *sarama.Config {
	s := c.common()
	s.Consumer.Return.Errors = true
	s.Consumer.Offsets.Initial = sarama.OffsetOldest
	s.Consumer.IsolationLevel = sarama.ReadCommitted
	s.Consumer.Retry.Backoff = 500 * time.Millisecond
	s.Consumer.Group.Rebalance.Retry.Backoff = 500 * time.Millisecond
	s.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyCooperativeSticky()}
	if c.Sarama != nil {
		c.Sarama(s)
	}
	return s
}

// Parse returns the configuration that a URL says: kafka://host:9092, or
// kafka://user:password@h1:9092,h2:9092 for several brokers, with any of the
// parameters client_id, group_prefix, mechanism and tls (true or false).
func Parse(u *url.URL) (Config, error) {
	config, err := parse(u)
	if err != nil {
		return Config{}, fmt.Errorf("kafka URL: %w", err)
	}
	return config, nil
}

func parse(u *url.URL) (Config, error) {
	if u.Scheme != "kafka" {
		return Config{}, fmt.Errorf("scheme %q: want kafka", u.Scheme)
	}
	if u.Opaque != "" || strings.Trim(u.Path, "/") != "" || u.Fragment != "" {
		return Config{}, errors.New("there is more than brokers and parameters: want kafka://host:9092?name=value")
	}
	var c Config
	err := parameters.Parse(u.RawQuery, parameters.Text("client_id", &c.ClientID), parameters.Text("group_prefix", &c.GroupPrefix),
		parameters.Text("mechanism", &c.Mechanism), parameters.TLS(&c.TLS))
	if err != nil {
		return Config{}, err
	}
	if u.Host != "" {
		c.Brokers = strings.Split(u.Host, ",")
	}
	if err := parameters.CheckPassword(u.User); err != nil {
		return Config{}, err
	}
	if u.User != nil {
		c.Username = u.User.Username()
		c.Password, _ = u.User.Password()
	}
	return c, c.Validate()
}
