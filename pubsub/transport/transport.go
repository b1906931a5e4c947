// Package transport makes a pubsub.Transport from a URL, for programs that choose their
// transport by the environment:
//
//	carrier, err := transport.FromEnv() // REPRISE_TRANSPORT, or none
//	b, err := bus.Open(ctx, databaseURL, bus.Config{Transport: carrier})
//
// It links the clients of all brokers into the program. A program that always uses one
// broker should use that broker's package instead: pubsub/kafka or pubsub/nats.
package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/reprise-bus/reprise/internal/parameters"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/kafka"
	"github.com/reprise-bus/reprise/pubsub/nats"
)

// Variable is the environment variable that FromEnv reads.
const Variable = "REPRISE_TRANSPORT"

// FromEnv returns the transport that the environment variable REPRISE_TRANSPORT names. If
// the variable is not set it returns nil: the database carries the events.
func FromEnv() (*pubsub.Transport, error) {
	t, err := Open(os.Getenv(Variable), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Variable, err)
	}
	return t, nil
}

// Open returns the transport of a URL, and nil for "" and "database:":
//
//	kafka://user:password@host:9092,host:9092?tls=true
//	nats://user:password@host:4222
//
// kafka.Parse and nats.Parse list the parameters. One more is common to all: mode=direct,
// outbox, hold or database, for Transport.Mode. Open does not connect. Errors show no
// password. A nil logger means slog.Default().
func Open(rawURL string, logger *slog.Logger) (*pubsub.Transport, error) {
	if rawURL == "" || rawURL == "database:" {
		return nil, nil
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// err quotes the invalid part, which may be part of a password.
		return nil, errors.New("the transport's URL cannot be read: want such as kafka://host:9092 or nats://host:4222; special characters of a password are escaped, such as / by %2F")
	}
	if err := parameters.CheckUser(rawURL); err != nil {
		return nil, fmt.Errorf("the transport's URL %w", err)
	}
	query := u.Query()
	mode, err := pubsub.ParseMode(query.Get("mode"))
	if err != nil {
		return nil, err
	}
	query.Del("mode")
	u.RawQuery = query.Encode()

	var t *pubsub.Transport
	switch strings.ToLower(u.Scheme) {
	case "kafka":
		config, err := kafka.Parse(u)
		if err != nil {
			return nil, err
		}
		config.Logger = logger
		t, err = kafka.New(config)
		if err != nil {
			return nil, err
		}
	case "nats":
		config, err := nats.Parse(u)
		if err != nil {
			return nil, err
		}
		config.Logger = logger
		t, err = nats.New(config)
		if err != nil {
			return nil, err
		}
	default:
		if !strings.Contains(rawURL, "://") { // the text before the colon may be a user or part of a password, and is not shown
			return nil, errors.New("the transport's URL has no scheme that is known: want kafka://host:9092, nats://host:4222, or database: for none")
		}
		return nil, fmt.Errorf("the transport's URL begins with %q: want kafka://host:9092, nats://host:4222, or database: for none", u.Scheme+":")
	}
	t.Mode = mode
	return t, nil
}
