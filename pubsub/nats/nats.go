// Package nats carries events over NATS JetStream.
//
// A topic is a subject of the same name. Unless a stream has that subject
// already, one is made for the topic when it is first used: of the limits
// policy and without a limit, in a file, with one replica. A stream that
// somebody else has made is used as it is: make it first, or edit it, where you
// want replicas or limits. It should keep what is consumed; a work queue serves
// one handler. "Stored" means what the server means by it, which writes to the
// disk at its sync_interval.
//
// A handler is a durable consumer, in a stream of the topic's own named
// GroupPrefix and the handler's name, and in any other stream with the topic
// behind it; characters that such names do not allow are replaced, and a hash
// keeps names apart that would be one then. Processes that serve the handler
// share it. A new handler gets what the stream still has.
//
// A stream keeps the order in which messages were stored, and a consumer first
// delivers them so. What was not acknowledged in time comes again, behind
// messages that were stored later, and several processes of one handler each
// get some of the messages: count on no order there.
//
// Publish returns when the server has stored the message. Within the stream's
// duplicate window, two minutes where it is made here, the server stores one
// topic, UUID and payload once.
//
// Headers are those of watermill-nats' NATSMarshaler. Metadata that no header
// can carry, and what the server would take for an instruction (Nats-…), goes
// into one more, Reprise-Metadata, as JSON. A message without a UUID gets an id
// made of its stream and its sequence there, such as "ORDERS/1742": a stream
// that is deleted and made again under the same name counts from one again.
package nats

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/reprise-bus/reprise/internal/brief"
	"github.com/reprise-bus/reprise/pubsub"
)

// New returns NATS as a transport. It connects to nothing: the publisher does
// when it is asked for, and fails where no server is there; a subscriber does
// when it is subscribed, in the background, until it works. Each has a
// connection of its own, which NATS' client restores from then on; while it is
// lost a publish fails at once, and one that the server does not answer fails
// after two seconds.
func New(config Config) (*pubsub.Transport, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	if config.CredentialsFile != "" {
		if _, err := os.ReadFile(config.CredentialsFile); err != nil {
			return nil, fmt.Errorf("nats: field CredentialsFile: want a file that can be read: %w", err)
		}
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	config.Logger = brief.Logger(config.Logger)
	return &pubsub.Transport{
		Name:       "nats",
		Publisher:  func() (message.Publisher, error) { return newPublisher(config) },
		Subscriber: func(handler string) (message.Subscriber, error) { return newSubscriber(config, handler), nil },
		Topic:      checkTopic,
		Refused:    Refused,
	}, nil
}

// Refused says of an error of the publisher that it is about the message or its
// topic: too large for the server or for the stream, or no subject. That no
// stream is there, or no server, is none.
func Refused(err error) bool {
	const messageTooLarge, headersTooLarge = jetstream.JSErrCodeStreamMessageExceedsMaximum, 10097
	var api *jetstream.APIError
	return errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) ||
		errors.As(err, &api) && (api.ErrorCode == messageTooLarge || api.ErrorCode == headersTooLarge)
}
