// Package nats carries events over NATS JetStream.
//
// A topic is a subject of the same name. If no stream has the subject, one is created
// when the topic is first used: with the limits policy, no limits, file storage and one
// replica. An existing stream is used as it is. To have replicas or limits, create the
// stream first, or edit it. It should keep consumed messages: a work-queue stream serves
// one handler only. "Stored" has the server's meaning; the server writes to the disk at
// its sync_interval.
//
// A handler is a durable consumer. In a stream of the topic's own its name is GroupPrefix
// and the handler's name. In any other stream the topic is appended. Characters that are
// not allowed in a name are replaced, and a hash keeps such names distinct. Processes
// that serve the handler share the consumer. A new handler gets everything that the
// stream still has.
//
// A stream keeps the order in which messages were stored, and a consumer first delivers
// them in that order. A message that was not acknowledged in time comes again, behind
// messages that were stored later. Several processes of one handler each get some of the
// messages. So rely on no order in a handler.
//
// Publish returns when the server has stored the message. Within the stream's duplicate
// window, 2 minutes for a stream created here, the server stores a message with the same
// topic, UUID, payload and metadata once.
//
// Headers are those of watermill-nats' NATSMarshaler. Metadata that a header cannot
// carry, and names that the server would take for an instruction (Nats-…), go into one
// more header, Reprise-Metadata, as JSON. A message without a UUID gets an id made of its
// stream and its sequence there, such as "ORDERS/1742". A stream that is deleted and
// created again under the same name counts from 1 again.
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

// New returns NATS as a transport. It does not connect. The publisher connects when it is
// requested, and fails if no server is there. A subscriber connects in the background
// after Subscribe, until that works. Each has a connection of its own, which the NATS
// client restores. While the connection is lost, a publish fails at once. A publish that
// the server does not answer fails after 2 s.
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

// Refused reports whether an error of the publisher is about the message or its topic:
// too large for the server or the stream, or not a valid subject. A missing stream or
// server is not such an error.
func Refused(err error) bool {
	const messageTooLarge, headersTooLarge = jetstream.JSErrCodeStreamMessageExceedsMaximum, 10097
	var api *jetstream.APIError
	return errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) ||
		errors.As(err, &api) && (api.ErrorCode == messageTooLarge || api.ErrorCode == headersTooLarge)
}
