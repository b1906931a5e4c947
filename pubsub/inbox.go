package pubsub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Inbox is the subscriber of a handler whose messages another transport delivers, through
// any Watermill subscriber. A message is recorded, acknowledged after the commit, and
// then handled like an event published here, with retries, policy and replays. A slow or
// failing message delays no other.
//
// A redelivered message is recognised by its UUID, payload and metadata, acknowledged,
// and not handled again. A different message under the same UUID is another event with an
// id of its own: see Publisher.Publish. A message that the database refuses for its
// content, for example by a trigger of the application, is logged and nacked after up to
// 10 s. It delays no other message either.
//
// The wrapped subscriber acknowledges by consumer group: give each handler a group of its
// own, such as its name. While the database is away nothing is acknowledged.
type Inbox struct {
	pubsub *PubSub
	inner  message.Subscriber
	own    *Subscriber
	config InboxConfig

	predictor predictor // expects known events where another handler records the same events
	once      sync.Once
	closing   chan struct{}
	receiving sync.WaitGroup
}

var (
	_ message.Subscriber           = (*Inbox)(nil)
	_ message.SubscribeInitializer = (*Inbox)(nil)
)

// InboxConfig sets how an Inbox works. A zero field means its default.
type InboxConfig struct {
	// Source is the Source of events that this Inbox records; default the type of the
	// wrapped subscriber.
	Source string

	// Identify returns the id of a message that has no UUID. The id must be the same at
	// each delivery, for example made of topic, partition and offset. Without Identify,
	// or if it returns "", the message gets a new id at each delivery.
	Identify func(msg *message.Message) string

	// Recorded is for a router whose first middleware is middleware.Record: see
	// RecordedSubscriber.
	Recorded bool
}

// Inbox returns an Inbox of the handler around a subscriber.
func (p *PubSub) Inbox(inner message.Subscriber, handler string, policy handlers.Policy, config InboxConfig) (*Inbox, error) {
	if inner == nil {
		return nil, errors.New("inbox: the subscriber is nil: pass the one of the transport")
	}
	if config.Source == "" {
		config.Source = strings.TrimPrefix(fmt.Sprintf("%T", inner), "*")
	}
	if config.Source == store.SourcePublish || config.Source == store.SourceEdit {
		return nil, fmt.Errorf("inbox: field Source %q: it means something else, name the transport", config.Source)
	}
	return &Inbox{
		pubsub: p, inner: inner, config: config, closing: make(chan struct{}),
		own: p.subscriber(handler, policy, config.Recorded),
	}, nil
}

// SubscribeInitialize prepares the subscription in the database, and at the transport if
// inner is a message.SubscribeInitializer.
func (in *Inbox) SubscribeInitialize(topic string) error {
	if err := in.own.SubscribeInitialize(topic); err != nil {
		return err
	}
	if transport, ok := in.inner.(message.SubscribeInitializer); ok {
		return transport.SubscribeInitialize(topic)
	}
	return nil
}

// Subscribe delivers the handler's due runs on the topic, from the transport and from
// elsewhere, as Subscriber.Subscribe does. If the transport is away or ends the
// subscription, Subscribe retries in the background, and due runs are handled meanwhile.
func (in *Inbox) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	ctx, cancel := context.WithCancel(ctx)
	out, err := in.own.Subscribe(ctx, topic)
	if err != nil {
		cancel()
		return nil, err
	}
	from, failed := in.inner.Subscribe(ctx, topic)
	stop := context.AfterFunc(in.pubsub.loopCtx, cancel)
	in.receiving.Go(func() {
		defer cancel()
		defer stop()
		in.receiveAll(ctx, topic, from, failed)
	})
	return out, nil
}

// Close closes the wrapped subscriber and ends the delivery here, as Subscriber.Close
// does.
func (in *Inbox) Close() error {
	var err error
	in.once.Do(func() { // a router calls Close once for each topic
		close(in.closing)
		err = in.inner.Close()
	})
	in.receiving.Wait()
	return errors.Join(err, in.own.Close())
}

// receiveAll receives messages until the Inbox ends. It subscribes to the transport again
// when the transport ends the subscription.
func (in *Inbox) receiveAll(ctx context.Context, topic string, from <-chan *message.Message, err error) {
	health := outage.Outage{What: "subscribing handler " + in.own.handler + " to topic " + topic + " at " + in.config.Source, Log: in.pubsub.config.Logger}
	pace := outage.Pace(maxPause)
	for {
		if err == nil {
			health.Report(ctx, nil)
			pace.Reset()
			in.receive(ctx, topic, from)
			err = errors.New("the transport ended the subscription")
		}
		pause := time.After(pace.NextBackOff())
		select {
		case <-ctx.Done():
			return
		case <-in.closing:
			return
		default:
			health.Report(ctx, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-in.closing:
			return
		case <-pause:
		}
		from, err = in.inner.Subscribe(ctx, topic)
	}
}

// receive records messages in batches until the transport delivers no more. Messages that
// arrive while one batch is written form the next.
func (in *Inbox) receive(ctx context.Context, topic string, from <-chan *message.Message) {
	r := recorder{
		inbox: in, topic: topic,
		health:   outage.Outage{What: "recording what " + in.config.Source + " delivers on " + topic, Log: in.pubsub.config.Logger},
		culprits: outage.Pace(culpritPause),
	}
	for msg := range from {
		for batch := gathered(msg, from); len(batch) > 0; {
			var receipts []receipt
			receipts, batch = in.receipts(topic, batch)
			left := r.record(ctx, receipts)
			if len(left) == 0 {
				continue
			}
			for _, l := range append(left, receipt{messages: batch}) { // another process may get the message at once
				l.nack()
			}
			return
		}
	}
}

// gathered returns the first message and the messages waiting in the channel, at most 500
// and about 8 MiB. Without a buffer in the channel there are few or none.
func gathered(first *message.Message, from <-chan *message.Message) []*message.Message {
	const most = 500
	batch, size := []*message.Message{first}, len(first.Payload)
	for len(batch) < most && size < maxBytes {
		select {
		case msg, open := <-from:
			if !open {
				return batch
			}
			batch, size = append(batch, msg), size+len(msg.Payload)
		default:
			return batch
		}
	}
	return batch
}

// receipt is an event, and the messages of one batch that brought it.
type receipt struct {
	event    store.Event
	messages []*message.Message
}

func (r receipt) ack() {
	for _, msg := range r.messages {
		msg.Ack()
	}
}

func (r receipt) nack() {
	for _, msg := range r.messages {
		msg.Nack()
	}
}

// culpritPause is how long a message that the database refuses is kept at most before it
// is nacked.
const culpritPause = 10 * time.Second

// recorder records the messages of one subscription.
type recorder struct {
	inbox    *Inbox
	topic    string
	health   outage.Outage
	culprits *backoff.ExponentialBackOff
	refused  time.Time // time of the last refused message
}

// record writes the batch, retries without limit, and acknowledges the messages that it
// has written. When ctx ends it returns the others.
func (r *recorder) record(ctx context.Context, batch []receipt) (left []receipt) {
	for pace := outage.Pace(5 * time.Second); ; {
		var err error
		batch, err = r.write(ctx, batch)
		r.health.Report(ctx, err)
		if len(batch) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return batch
		case <-time.After(pace.NextBackOff()):
		}
	}
}

// write records a batch in one statement. If the database refuses part of the batch,
// write tries each event alone. It returns the events that are still to be written, and
// why.
func (r *recorder) write(ctx context.Context, batch []receipt) (left []receipt, err error) {
	if len(batch) > 1 {
		events := make([]store.Event, len(batch))
		for i := range batch {
			events[i] = batch[i].event
		}
		err := r.inbox.receiveTogether(ctx, r.topic, events)
		switch {
		case err == nil:
			for _, b := range batch {
				b.ack()
			}
			return nil, nil
		case ctx.Err() != nil || !divisible(err):
			return batch, err
		}
	}
	var each alone
	for i, b := range batch {
		err := each.try(func() error { return r.inbox.receiveOne(ctx, r.topic, b.event) })
		switch {
		case err == nil:
			b.ack()
		case ctx.Err() != nil || each.givenUp() || !divisible(err):
			return batch[i:], err
		default:
			r.refuse(ctx, b, err)
		}
	}
	return nil, nil
}

// refuse nacks a message that the database refuses, after a pause that grows while
// messages are refused.
func (r *recorder) refuse(ctx context.Context, culprit receipt, err error) {
	if time.Since(r.refused) > 2*culpritPause {
		r.culprits.Reset()
	}
	r.refused = time.Now()
	pause := min(r.culprits.NextBackOff(), culpritPause)
	r.inbox.pubsub.config.Logger.Error("the database refuses a message: the transport is to deliver it again",
		"source", r.inbox.config.Source, "topic", r.topic, "event", culprit.event.ID, "after", pause, "error", err)
	r.inbox.receiving.Go(func() {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-r.inbox.closing:
		case <-timer.C:
		}
		culprit.nack()
	})
}

// receiveOne records one event. If its id belongs to another event, the event gets an id
// of its own.
func (in *Inbox) receiveOne(ctx context.Context, topic string, e store.Event) error {
	err := in.receiveTogether(ctx, topic, []store.Event{e})
	if errors.Is(err, store.ErrDuplicateID) {
		err = in.receiveTogether(ctx, topic, []store.Event{e.Renamed()})
	}
	return err
}

// insert tries the cheaper statement first when the events are probably new.
func (in *Inbox) insert(ctx context.Context, events []store.Event, h *handover) (queue.Received, error) {
	q := in.pubsub.queue
	if in.predictor.expectsNew() {
		received, err := in.try(ctx, q.ReceiveNew, events, h)
		if !errors.Is(err, queue.ErrKnown) && !sqldb.Collided(err) {
			return received, err
		}
	}
	var received queue.Received
	err := store.Again(ctx, func() (err error) {
		received, err = in.try(ctx, q.Receive, events, h)
		return err
	})
	in.predictor.learn(err == nil && received.Known == 0)
	return received, err
}

type receive func(ctx context.Context, handler string, events []store.Event, lease queue.LeaseOnInsert) (queue.Received, error)

// try runs one statement. If its result is unknown, it may have leased runs: the process
// continues under a new identity.
func (in *Inbox) try(ctx context.Context, receive receive, events []store.Event, h *handover) (queue.Received, error) {
	received, err := receive(ctx, in.own.handler, events, h.lease())
	if h.wanted() && (received.Resent || err != nil && !sqldb.Refused(err)) {
		in.pubsub.doubt(h.leaser)
		signal(in.pubsub.wake)
	}
	return received, err
}

// receiveTogether records the events in one statement and hands the new ones to the
// handler, as far as it has free slots.
func (in *Inbox) receiveTogether(ctx context.Context, topic string, events []store.Event) error {
	p := in.pubsub
	key := store.Subscription{Topic: topic, Handler: in.own.handler}
	h := p.reserveFor(func(other store.Subscription) int {
		if other == key {
			return len(events)
		}
		return 0
	})
	h.begin()
	received, err := in.insert(ctx, events, h)
	h.leased(received.Leased, events)
	h.inserted()
	if err != nil {
		h.cancel()
		return err
	}
	h.deliver()
	p.announce(queue.Inserted{Due: received.Due})
	if len(received.Other) == 0 {
		return nil
	}
	// The ids of these events are known. They may differ from the recorded event in the
	// trace only.
	others := make([]store.Event, len(received.Other))
	for i, other := range received.Other {
		if e := events[other.Event]; e.Repeats(other.Metadata) {
			others[i] = e.Repeat()
		} else {
			others[i], others[i].Declared = e, true
		}
	}
	return in.receiveTogether(ctx, topic, others)
}

// event returns the message as the database stores it.
func (in *Inbox) event(topic string, msg *message.Message) store.Event {
	e := store.Event{ID: msg.UUID, Topic: topic, Key: msg.Metadata.Get(store.KeyMetadata), Payload: bytes.Clone(msg.Payload), Source: in.config.Source}
	if e.ID == "" && in.config.Identify != nil {
		e.ID = in.config.Identify(msg)
	}
	if e.ID == "" {
		e.ID = uuid.Must(uuid.NewV7()).String()
	}
	e.Metadata = msg.Metadata
	return e.Keepable().Unmark()
}

// receipts converts messages to events, and combines equal messages into one receipt. A
// different message under the same id goes into later: the first one written becomes the
// event of that id.
func (in *Inbox) receipts(topic string, batch []*message.Message) (receipts []receipt, later []*message.Message) {
	known := make(map[string]int, len(batch))
	receipts = make([]receipt, 0, len(batch))
	for _, msg := range batch {
		e := in.event(topic, msg)
		i, twice := known[e.ID]
		switch {
		case !twice:
			known[e.ID] = len(receipts)
			receipts = append(receipts, receipt{e, []*message.Message{msg}})
		case !bytes.Equal(receipts[i].event.Payload, e.Payload) || e.Repeats(receipts[i].event.Metadata):
			later = append(later, msg)
		default:
			receipts[i].messages = append(receipts[i].messages, msg)
		}
	}
	return receipts, later
}
