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

// Inbox is the subscriber of a handler whose messages another transport
// delivers: what any Watermill subscriber brings is recorded, acknowledged once
// that is committed, and then handled like what was published here, with
// retries, policy and replays. A message that is slow or fails holds up no
// other. One that is delivered again is recognised by its UUID, payload and
// metadata, acknowledged, and not handled again. Another message under the same
// UUID is another event, with an id of its own: see Publisher.Publish. One that the
// database refuses for what it is, such as by a trigger of the application's, is
// logged and given back to the transport, after up to 10 s, and holds up no other
// either.
//
// The wrapped subscriber acknowledges by consumer group: give each handler one
// of its own, as its name. While the database is away nothing is acknowledged.
type Inbox struct {
	pubsub *PubSub
	inner  message.Subscriber
	own    *Subscriber
	config InboxConfig

	predictor predictor // where another handler has recorded the same events, there are none
	once      sync.Once
	closing   chan struct{}
	receiving sync.WaitGroup
}

var (
	_ message.Subscriber           = (*Inbox)(nil)
	_ message.SubscribeInitializer = (*Inbox)(nil)
)

// InboxConfig sets what an Inbox does. A zero field means its default.
type InboxConfig struct {
	// Source is what events that come this way have as their Source; default
	// the type of the wrapped subscriber.
	Source string

	// Identify returns the id of a message that has no UUID, which must be the
	// same whenever the transport delivers it again, such as made of its topic,
	// partition and offset. Without one, or where it returns "", the message
	// gets a new id each time it comes.
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

// SubscribeInitialize prepares the subscription here, and at the transport if
// that needs it.
func (in *Inbox) SubscribeInitialize(topic string) error {
	if err := in.own.SubscribeInitialize(topic); err != nil {
		return err
	}
	if transport, ok := in.inner.(message.SubscribeInitializer); ok {
		return transport.SubscribeInitialize(topic)
	}
	return nil
}

// Subscribe delivers the handler's due runs on the topic, those that the
// transport brings and all others, as Subscriber.Subscribe does. A transport
// that is away, or ends the subscription by itself, is subscribed to again until
// that works: what is due here is handled meanwhile.
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

// Close ends what the transport delivers, and what is delivered here, as
// Subscriber.Close does.
func (in *Inbox) Close() error {
	var err error
	in.once.Do(func() { // a router closes it once for each topic
		close(in.closing)
		err = in.inner.Close()
	})
	in.receiving.Wait()
	return errors.Join(err, in.own.Close())
}

// receiveAll receives, and subscribes to the transport again when that ends,
// until the Inbox does.
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

// receive records what the transport delivers until it delivers no more: what
// gathers while one batch is written is the next.
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
			for _, l := range append(left, receipt{messages: batch}) { // another process may have it at once
				l.nack()
			}
			return
		}
	}
}

// gathered returns the message and those that wait behind it: of a subscriber
// whose channel has no buffer, few or none.
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

// receipt is an event and the messages, of one batch, that brought it.
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

// culpritPause is how long a message is kept at most that the database refuses,
// before the transport delivers it again.
const culpritPause = 10 * time.Second

// recorder records what one subscription delivers.
type recorder struct {
	inbox    *Inbox
	topic    string
	health   outage.Outage
	culprits *backoff.ExponentialBackOff
	refused  time.Time // the last culprit
}

// record writes the batch, however long that takes, and acknowledges what it has
// written. It returns what it has not written before ctx ended.
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

// write records a batch in one statement or, when the database refuses some of
// it, each event for itself. It returns what is still to be written, and why.
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

// refuse gives a message that the database refuses back to the transport, after a
// pause that grows while messages are refused.
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

// receiveOne records one event, under an id of its own when its id is that of
// another event that is there.
func (in *Inbox) receiveOne(ctx context.Context, topic string, e store.Event) error {
	err := in.receiveTogether(ctx, topic, []store.Event{e})
	if errors.Is(err, store.ErrDuplicateID) {
		err = in.receiveTogether(ctx, topic, []store.Event{e.Renamed()})
	}
	return err
}

// insert takes the cheaper statement for what is likely to be new.
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

// try runs one statement. If nobody knows what it has leased, neither does this
// process, and goes on as another.
func (in *Inbox) try(ctx context.Context, receive receive, events []store.Event, h *handover) (queue.Received, error) {
	received, err := receive(ctx, in.own.handler, events, h.lease())
	if h.wanted() && (received.Resent || err != nil && !sqldb.Refused(err)) {
		in.pubsub.doubt(h.leaser)
		signal(in.pubsub.wake)
	}
	return received, err
}

// receiveTogether records the events in one statement, and hands those that are
// new to the handler as far as it has free slots.
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
	// Their ids are known. What differs may be no more than a trace.
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

// event is the message as the database keeps it.
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

// receipts makes events of messages, one of those that are there twice. Those under
// one id that say something else are later: which of them is the event of that id,
// what the database has by then decides.
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
