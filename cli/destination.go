package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// namesTopics reports whether the application has declared topics by name.
func namesTopics(topics []store.Topic) bool {
	return slices.ContainsFunc(topics, func(t store.Topic) bool { return t.Topic != store.AllTopics })
}

// declared returns the application's declaration of a topic, or else that for all other
// topics; the zero Topic if there is neither.
func declared(topics []store.Topic, name string) store.Topic {
	for _, known := range []string{name, store.AllTopics} {
		if i := slices.IndexFunc(topics, func(t store.Topic) bool { return t.Topic == known }); i >= 0 {
			return topics[i]
		}
	}
	return store.Topic{}
}

// allowed reports a topic on which the application forbids publishing by hand.
func allowed(topics []store.Topic, name string) error {
	if !namesTopics(topics) || declared(topics, name).Manual {
		return nil
	}
	var manual []string
	for _, t := range topics {
		if t.Manual {
			manual = append(manual, t.Topic)
		}
	}
	if len(manual) == 0 {
		manual = []string{"none"}
	}
	return usage(fmt.Errorf("topic %q is not for publishing by hand; the application allows: %s. To allow it, set Manual of bus.Config.Topics[%q], and start the application with that",
		name, strings.Join(manual, ", "), name))
}

// destination is where events go that are published by hand on a topic.
type destination struct {
	message.Publisher
	state store.OutgoingState // of the message in the outbox; "" means the database, with runs for its handlers
	close func() error

	direct bool // a single event goes to the broker, if that works
}

// destinationOf returns where events of a topic go, according to its declaration.
// Events for a broker go into the outbox, from which the application sends them. If
// carrier is a connection to the broker, a single event goes to the broker itself.
func destinationOf(ps *pubsub.PubSub, t store.Topic, carrier *pubsub.Transport) (destination, error) {
	mode, state := pubsub.Mode(t.Mode), store.OutgoingPending
	switch {
	case t.Transport == "" || mode == pubsub.ViaDatabase:
		return destination{ps.Publisher(), "", func() error { return nil }, false}, nil
	case mode == pubsub.Hold:
		state = store.OutgoingHeld
	case carrier == nil:
		mode = pubsub.ViaOutbox
	case carrier.Name != t.Transport:
		return destination{}, usage(fmt.Errorf("topic %q goes over %s, and the transport that is given is %s: correct it, or leave it out to go by the outbox", t.Topic, t.Transport, carrier.Name))
	}
	if carrier == nil {
		carrier = &pubsub.Transport{
			Name:       t.Transport,
			Publisher:  func() (message.Publisher, error) { return nil, errNotConnected },
			Subscriber: func(string) (message.Subscriber, error) { return nil, errNotConnected },
		}
	}
	carrier.Mode = mode
	outbox, err := ps.Outbox(carrier, pubsub.OutboxConfig{})
	if err != nil {
		return destination{}, err
	}
	return destination{outbox.Publisher(), state, outbox.Close, mode == pubsub.Direct}, nil
}

var errNotConnected = errors.New("the command line does not connect to the broker")
