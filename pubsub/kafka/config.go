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

// Config sets how Kafka is reached and used. A zero field means its default.
type Config struct {
	// Brokers are some brokers of the cluster, each host:port.
	Brokers []string

	// ClientID is the name of this application in the brokers' logs and quotas; default
	// "reprise".
	ClientID string

	// GroupPrefix is put before the handler's name in the name of its consumer group. It
	// separates services that have handlers of the same name. Default: none.
	GroupPrefix string

	// TLS secures the connections. Default: no TLS.
	TLS *tls.Config

	// Username and Password authenticate the connections by SASL. Default: no
	// authentication. Mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; default PLAIN.
	Username  string
	Password  string
	Mechanism string

	// Sarama may change the configuration of a publisher or a subscriber, after
	// everything else. It is called for each.
	Sarama func(*sarama.Config)

	// Logger logs once when nothing can be received, and once when receiving works again;
	// default slog.Default().
	Logger *slog.Logger
}

func mechanisms() []string {
	return []string{sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512}
}

// Validate reports every invalid field.
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
		if err != nil { // err is not shown: it may contain a password
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

// common returns the settings that publishers and subscribers share.
func (c Config) common() *sarama.Config {
	s := sarama.NewConfig()
	s.ClientID = cmp.Or(c.ClientID, "reprise")
	s.Metadata.Full = false // only the topics used here
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

// producer returns a configuration that gives up before the waiting application does. One
// request at a time for each broker keeps the order through retries. Messages published
// meanwhile form the next request.
func (c Config) producer() *sarama.Config {
	s := c.common()
	s.Net.MaxOpenRequests = 1
	s.Net.ReadTimeout = 2 * time.Second
	s.Net.WriteTimeout = 2 * time.Second
	s.Metadata.Retry.Max = 5
	s.Metadata.Timeout = 2 * time.Second
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Producer.Idempotent = true
	s.Producer.Transaction.Retry.Max = 10 // times 100 ms, for the producer id when it connects
	s.Producer.Timeout = 1500 * time.Millisecond
	s.Producer.Retry.Max = 3
	s.Producer.Partitioner = sarama.NewMurmur2Partitioner
	if c.Sarama != nil {
		c.Sarama(s)
	}
	s.Producer.Return.Successes, s.Producer.Return.Errors = true, true // the publisher waits for them
	return s
}

// consumer returns a configuration for one consumer group only, since its strategy has
// state.
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

// Parse returns the configuration in a URL: kafka://host:9092, or
// kafka://user:password@h1:9092,h2:9092 for several brokers. Allowed parameters are
// client_id, group_prefix, mechanism and tls (true or false).
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
