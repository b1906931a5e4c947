package nats

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/reprise-bus/reprise/internal/parameters"
)

// Config sets how NATS is reached and used. A zero field means its default.
type Config struct {
	// URL is the server, or the servers of a cluster, separated by commas:
	// "nats://user:password@h1:4222,nats://user:password@h2:4222".
	URL string

	// Name is the name of the connections at the servers; default "reprise".
	Name string

	// CredentialsFile and Token authenticate the connections, like a user and password in
	// URL. At most one of them may be set.
	CredentialsFile string
	Token           string

	// TLS secures the connections. Default: TLS only if the server asks for it.
	TLS *tls.Config

	// Stream is the name of one stream whose subjects include all topics. Default: the
	// stream of each topic is found by its subject, or created.
	Stream string

	// NoProvision disables the creation of streams: a topic without one is an error. A consumer is
	// still created if there is none of its name.
	NoProvision bool

	// GroupPrefix is put before the handler's name in the name of its consumer. It
	// separates services that have handlers of the same name. Default: none.
	GroupPrefix string

	// AckWait is the time after which a message that was not acknowledged is delivered
	// again. Default 30 s for a new consumer; an existing consumer keeps its own.
	AckWait time.Duration

	// Options are further options of the connections, applied last.
	Options []nats.Option

	// Logger logs once when nothing can be received, and once when receiving works again;
	// default slog.Default().
	Logger *slog.Logger
}

// Validate reports every invalid field.
func (c Config) Validate() error {
	var errs []error
	if err := checkServers(c.URL); err != nil {
		errs = append(errs, fmt.Errorf("field URL: %w", err))
	}
	if c.CredentialsFile != "" && c.Token != "" {
		errs = append(errs, errors.New("fields CredentialsFile and Token: want one of them"))
	}
	if strings.ContainsAny(c.Stream, " \t\r\n\f.*>/\\") {
		errs = append(errs, fmt.Errorf("field Stream %q: want a name without spaces and . * > / \\", c.Stream))
	}
	if c.AckWait < 0 {
		errs = append(errs, fmt.Errorf("field AckWait %v: want a positive duration", c.AckWait))
	}
	return errors.Join(errs...)
}

// checkServers never quotes the invalid part, which may contain a password.
func checkServers(servers string) error {
	list := strings.Split(servers, ",")
	for i, server := range list {
		u, err := url.Parse(server)
		switch {
		case server == "":
			err = errors.New("is empty")
		case err != nil:
			err = errors.New("is no URL")
		case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Hostname() == "":
			err = errors.New("is no URL of a NATS server")
		}
		if err != nil {
			return fmt.Errorf("server %d of %d %w: want nats://host:4222, or nats://user:password@host:4222 with %%xx for special characters", i+1, len(list), err)
		}
	}
	return nil
}

// Parse returns the configuration in a URL: nats://host:4222, or
// nats://user:password@h1:4222,h2:4222 for several servers. Allowed parameters are name,
// group_prefix, stream, creds (a file) and tls (true or false).
func Parse(u *url.URL) (Config, error) {
	config, err := parse(u)
	if err != nil {
		return Config{}, fmt.Errorf("nats URL: %w", err)
	}
	return config, nil
}

func parse(u *url.URL) (Config, error) {
	if u.Scheme != "nats" {
		return Config{}, fmt.Errorf("scheme %q: want nats", u.Scheme)
	}
	if u.Opaque != "" || strings.Trim(u.Path, "/") != "" || u.Fragment != "" {
		return Config{}, errors.New("there is more than servers and parameters: want nats://host:4222?name=value")
	}
	var c Config
	err := parameters.Parse(u.RawQuery, parameters.Text("name", &c.Name), parameters.Text("group_prefix", &c.GroupPrefix),
		parameters.Text("stream", &c.Stream), parameters.Text("creds", &c.CredentialsFile), parameters.TLS(&c.TLS))
	if err != nil {
		return Config{}, err
	}
	user := ""
	if err := parameters.CheckPassword(u.User); err != nil {
		return Config{}, err
	}
	if u.User != nil {
		user = strings.ReplaceAll(u.User.String(), ",", "%2C") + "@"
	}
	var servers []string
	for host := range strings.SplitSeq(u.Host, ",") {
		servers = append(servers, "nats://"+user+host)
	}
	c.URL = strings.Join(servers, ",")
	return c, c.Validate()
}
