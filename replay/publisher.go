package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// ErrNotManual is returned for a topic on which the application does not allow operators
// to publish.
var ErrNotManual = errors.New("not for publishing by hand")

// ErrWrongTransport is returned for a transport that does not carry the topic.
var ErrWrongTransport = errors.New("want the transport of the topic, or none to go by the outbox")

// PublisherConfig sets how a Publisher works. A zero field means its default.
type PublisherConfig struct {
	MaxPayload int // maximum payload of an event in bytes; default 16 MiB

	// Transport sends events to the broker of the topic. It is used only for a single
	// event on a topic of mode direct. By default, events for a broker go into the
	// outbox, from which the application sends them.
	Transport *pubsub.Transport
}

// Publisher publishes events by hand on one topic, as an operation on record. The events
// go where those of the application go: to the handlers, to the outbox, or to the broker.
// A Publisher is not safe for concurrent use. Close it after use.
type Publisher struct {
	st      *store.Store
	topic   string
	request Request

	pubsub *pubsub.PubSub
	outbox *pubsub.Outbox // nil: the database carries the events
	to     message.Publisher
	direct bool // a single event goes to the broker, if that works
	state  store.OutgoingState

	operation int64 // 0: nothing has been published
	published int64
}

// NewPublisher returns a publisher for the topic. Nothing is on record before the first
// Publish. The error is ErrNotManual if the application does not allow operators to
// publish on the topic, and ErrWrongTransport if the transport does not carry the topic.
func NewPublisher(ctx context.Context, st *store.Store, topic string, config PublisherConfig, request Request) (*Publisher, error) {
	topics, err := st.Topics(ctx)
	if err != nil {
		return nil, err
	}
	if err := MayPublish(topics, topic); err != nil {
		return nil, err
	}
	ps, err := pubsub.New(st, pubsub.Config{MaxPayload: config.MaxPayload, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	p := &Publisher{st: st, topic: topic, request: request, pubsub: ps, to: ps.Publisher()}
	if err := p.connect(declared(topics, topic), config.Transport); err != nil {
		return nil, errors.Join(err, ps.Close())
	}
	return p, nil
}

// connect chooses where the events go.
func (p *Publisher) connect(topic store.Topic, given *pubsub.Transport) (err error) {
	mode := pubsub.Mode(topic.Mode)
	if topic.Transport == "" || mode == pubsub.ViaDatabase {
		return nil
	}
	transport := pubsub.Transport{
		Name:       topic.Transport,
		Publisher:  func() (message.Publisher, error) { return nil, errNotConnected },
		Subscriber: func(string) (message.Subscriber, error) { return nil, errNotConnected },
	}
	switch {
	case given == nil && mode != pubsub.Hold:
		mode = pubsub.ViaOutbox
	case given != nil && given.Name != topic.Transport && mode != pubsub.Hold:
		return fmt.Errorf("topic %q goes over %s, and the transport that is given is %s: %w", p.topic, topic.Transport, given.Name, ErrWrongTransport)
	case given != nil:
		transport = *given
	}
	transport.Mode = mode
	if p.outbox, err = p.pubsub.Outbox(&transport, pubsub.OutboxConfig{}); err != nil {
		return err
	}
	p.to, p.direct, p.state = p.outbox.Publisher(), mode == pubsub.Direct, store.OutgoingPending
	if mode == pubsub.Hold {
		p.state = store.OutgoingHeld
	}
	return nil
}

var errNotConnected = errors.New("publishing by hand does not connect to the broker")

// Publish publishes all messages or none. After pubsub.ErrMaybeWritten the result is
// unknown. Published tells how many are published, also after an error.
func (p *Publisher) Publish(ctx context.Context, messages ...*message.Message) error {
	if p.operation == 0 {
		by := p.request.by()
		o, err := operate.On(p.st).RecordPublishing(ctx, store.Operation{RequestedBy: by.Name, Reason: by.Reason, Selection: store.Filter{Topic: p.topic}})
		if err != nil {
			return err
		}
		p.operation = o.ID
	}
	for _, msg := range messages {
		msg.Metadata.Set(store.OperationMetadata, strconv.FormatInt(p.operation, 10))
	}
	if err := p.to.Publish(p.topic, messages...); err != nil {
		return err
	}
	p.published += int64(len(messages))
	if p.direct && len(messages) == 1 {
		waits, err := p.st.Outbox(ctx, store.OutboxFilter{Topic: p.topic, EventID: messages[0].UUID})
		if err != nil {
			return err
		}
		if len(waits) == 0 {
			p.state = store.OutgoingSent
		}
	}
	return p.record(ctx, false)
}

// Complete records that all events are published.
func (p *Publisher) Complete(ctx context.Context) error { return p.record(ctx, true) }

func (p *Publisher) record(ctx context.Context, complete bool) error {
	if p.operation == 0 {
		return nil
	}
	return operate.On(p.st).Published(context.WithoutCancel(ctx), p.operation, p.published, complete)
}

// Topic returns the topic.
func (p *Publisher) Topic() string { return p.topic }

// Operation returns the id of the operation; 0 before the first Publish. Each event
// names it in its metadata, under store.OperationMetadata.
func (p *Publisher) Operation() int64 { return p.operation }

// Published returns the number of events published so far.
func (p *Publisher) Published() int64 { return p.published }

// Outbox returns the state of the last events in the outbox: SENT is at the broker. It
// returns "" if the database carries the events: they have runs.
func (p *Publisher) Outbox() store.OutgoingState { return p.state }

// Close closes the connection to the broker. The database stays open.
func (p *Publisher) Close() (err error) {
	if p.outbox != nil {
		err = p.outbox.Close()
	}
	return errors.Join(err, p.pubsub.Close())
}

// MayPublish returns ErrNotManual if the application's declarations do not allow
// operators to publish on the topic. An application that declares no topic by name
// allows all.
func MayPublish(topics []store.Topic, topic string) error {
	named := slices.ContainsFunc(topics, func(t store.Topic) bool { return t.Topic != store.AllTopics })
	if !named || declared(topics, topic).Manual {
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
	return fmt.Errorf("topic %q is %w; the application allows: %s. To allow it, set Manual of bus.Config.Topics[%q], and start the application with that",
		topic, ErrNotManual, strings.Join(manual, ", "), topic)
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
