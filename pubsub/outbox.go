package pubsub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Outbox publishes events over a Transport, each by the mode of its topic. While the
// broker is away it loses none: events that cannot be sent wait in the database, from
// where Run sends them. Safe for concurrent use.
type Outbox struct {
	pubsub     *PubSub
	transport  *Transport
	config     OutboxConfig
	connection connection
	writer     *writer
	notifier   *notifier

	mu        sync.Mutex
	diversion map[string]*diversion // by topic
	known     map[string]bool       // topics whose PENDING messages in the outbox this process knows of
	watching  bool                  // watch is running
	closed    bool

	nudge    chan struct{} // something will be sent soon: a caller's transaction
	settled  chan struct{} // a topic may have nothing left to send
	work     sync.WaitGroup
	workCtx  context.Context
	stopWork context.CancelFunc
}

// OutboxConfig sets how an Outbox works. A zero field means its default.
type OutboxConfig struct {
	// Topics sets the mode of single topics; default the Transport's Mode.
	Topics map[string]Mode

	// SendTimeout is how long the broker may take for one message. A message that it has
	// not taken by then is sent again later, from the outbox. Default 2 s.
	SendTimeout time.Duration
}

// Validate reports every invalid field.
func (c OutboxConfig) Validate() error {
	var errs []error
	for topic, mode := range c.Topics {
		if _, err := ParseMode(string(mode)); err != nil {
			errs = append(errs, fmt.Errorf("field Topics[%q]: %w", topic, err))
		}
	}
	if c.SendTimeout < 0 {
		errs = append(errs, fmt.Errorf("field SendTimeout %v: want a positive duration", c.SendTimeout))
	}
	return errors.Join(errs...)
}

// Outbox returns an Outbox for the transport. It does nothing until it is used. Close it
// before the PubSub.
func (p *PubSub) Outbox(transport *Transport, config OutboxConfig) (*Outbox, error) {
	if transport == nil {
		return nil, errors.New("outbox: the transport is nil: without one, publish by PubSub.Publisher")
	}
	if err := transport.Validate(); err != nil {
		return nil, fmt.Errorf("outbox: transport: %w", err)
	}
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("outbox: config: %w", err)
	}
	if config.SendTimeout == 0 {
		config.SendTimeout = 2 * time.Second
	}
	o := &Outbox{pubsub: p, transport: transport, config: config, diversion: map[string]*diversion{}, known: map[string]bool{}}
	o.nudge, o.settled = make(chan struct{}, 1), make(chan struct{}, 1)
	o.connection.connect = transport.Publisher
	o.writer = &writer{now: o.writeNow, large: o.writeLarge, log: p.config.Logger}
	o.notifier = p.newNotifier(p.db.NotifyOutbox)
	o.workCtx, o.stopWork = context.WithCancel(context.Background())
	return o, nil
}

// Mode returns how events of the topic are published.
func (o *Outbox) Mode(topic string) Mode {
	for _, mode := range []Mode{o.config.Topics[topic], o.transport.Mode} {
		if mode != "" {
			return mode
		}
	}
	return Direct
}

func (o *Outbox) held(topic string) bool { return o.Mode(topic) == Hold }

// OutboxPublisher is a Watermill publisher of events over a Transport.
type OutboxPublisher struct {
	outbox *Outbox
	tx     Tx // nil: not in a caller's transaction
}

var _ message.Publisher = (*OutboxPublisher)(nil)

// Publisher returns a publisher. When its Publish returns, the broker has the messages,
// or they are committed to the outbox.
func (o *Outbox) Publisher() *OutboxPublisher { return &OutboxPublisher{outbox: o} }

// PublisherTx returns a publisher that writes in the caller's transaction. Its messages
// are sent after the caller has committed; after a rollback they are not.
func (o *Outbox) PublisherTx(tx Tx) *OutboxPublisher { return &OutboxPublisher{outbox: o, tx: tx} }

// Publish publishes the messages, as Publisher.Publish does in the database: all of them
// or, with an error other than ErrMaybeWritten, none. Several messages of one call go
// into the outbox, since no broker takes all or none. If the broker refuses a message for
// its content, such as a message that is too large, Publish returns an error for a
// message sent directly; a message in the outbox becomes REFUSED.
//
// Messages of one key that one process publishes one after the other are sent in that
// order. The exception: the first was published by PublisherTx in a transaction other
// than InTx's, and the next directly.
func (p *OutboxPublisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	if err := p.publish(messages[0].Context(), topic, messages); err != nil {
		return fmt.Errorf("publish on topic %q: %w", topic, err)
	}
	return nil
}

// Close does nothing: see Publisher.Close.
func (p *OutboxPublisher) Close() error { return nil }

func (p *OutboxPublisher) publish(ctx context.Context, topic string, messages []*message.Message) error {
	o := p.outbox
	mode := o.Mode(topic)
	if mode == ViaDatabase {
		return (&Publisher{pubsub: o.pubsub, tx: p.tx}).publish(ctx, topic, messages)
	}
	if ctx.Err() != nil {
		return nothingWritten(context.Cause(ctx))
	}
	if err := cmp.Or(o.transport.ValidTopic(topic), o.pubsub.config.checkSizes(topic, messages)); err != nil {
		return nothingWritten(err)
	}
	events, err := eventsOf(topic, messages)
	switch {
	case err != nil:
		return err
	case p.tx != nil && isNil(p.tx):
		return errNilTx
	}
	for i := range events {
		events[i] = events[i].Mark()
	}
	if p.tx != nil {
		return o.writeTx(ctx, p.tx, events)
	}
	if err := o.pubsub.wouldWaitForItself(ctx); err != nil { // the event may have to go into the outbox
		return err
	}
	switch {
	case mode == Direct && len(events) == 1:
		return o.direct(ctx, events[0])
	default:
		defer o.divert(topic)()
		return o.writer.publish(ctx, events)
	}
}

var errNilTx = errors.New("the transaction is nil: pass the *sql.Tx or *sqlx.Tx that is open")

// writeNow writes events of any topics in one statement.
func (o *Outbox) writeNow(ctx context.Context, events []store.Event) (knownEvents, error) {
	events, others, err := queue.Unique(events)
	if err != nil {
		return nil, nothingWritten(err)
	}
	var fresh []store.EventID
	if err := store.Again(ctx, func() (err error) {
		fresh, err = o.pubsub.queue.WriteOutbox(ctx, o.pubsub.store.DB(), events, o.held)
		return err
	}); err != nil {
		return nil, whatIsKnown(err)
	}
	o.announce()
	known, err := o.writeRepeats(ctx, o.pubsub.store.DB(), events, others, fresh)
	if err != nil && len(fresh) > 0 {
		return nil, maybeWritten(err)
	}
	if err != nil {
		return nil, whatIsKnown(err)
	}
	if len(known) < len(events)+len(others)-len(fresh) {
		o.announce()
	}
	return known, nil
}

// writeRepeats does for the outbox what PubSub.insertRepeats does for the database.
func (o *Outbox) writeRepeats(ctx context.Context, q sqldb.Queryer, events, others []store.Event, fresh []store.EventID) (knownEvents, error) {
	if len(fresh) == len(events) && len(others) == 0 {
		return nil, nil
	}
	repeats, known, err := repeatsAmong(ctx, q, events, others, fresh, o.pubsub.queue.KnownOutgoingMetadata)
	if err != nil || len(repeats) == 0 {
		return known, err
	}
	if fresh, err = o.pubsub.queue.WriteOutbox(ctx, q, repeats, o.held); err != nil {
		return nil, err
	}
	known.addMissing(repeats, fresh)
	return known, nil
}

// writeLarge writes, in one transaction, more events than one statement takes.
func (o *Outbox) writeLarge(ctx context.Context, events []store.Event, committing *atomic.Bool) (known knownEvents, err error) {
	err = o.pubsub.inOneTx(ctx, committing, func(tx *sqlx.Tx) (err error) {
		known, err = o.writeChunks(ctx, tx, events)
		return err
	})
	if err == nil {
		o.announce()
	}
	return known, err
}

func (o *Outbox) writeChunks(ctx context.Context, tx sqldb.Queryer, events []store.Event) (knownEvents, error) {
	known := knownEvents{}
	for _, events := range split(events) {
		events, others, err := queue.Unique(events)
		if err != nil {
			return nil, err
		}
		fresh, err := o.pubsub.queue.WriteOutbox(ctx, tx, events, o.held)
		if err != nil {
			return nil, err
		}
		more, err := o.writeRepeats(ctx, tx, events, others, fresh)
		if err != nil {
			return nil, err
		}
		maps.Copy(known, more)
	}
	return known, nil
}

// writeTx writes events of one topic in the caller's transaction.
func (o *Outbox) writeTx(ctx context.Context, tx Tx, events []store.Event) error {
	known, err := o.writeChunks(ctx, tx, events)
	if err != nil {
		return err
	}
	sayKnown(ctx, o.pubsub.config.Logger, events, known)
	if own, ok := tx.(*Transaction); ok {
		topic := events[0].Topic
		own.outgoing = append(own.outgoing, func() {
			o.divert(topic)()
			o.announce()
		})
		return nil
	}
	signal(o.nudge)
	if o.pubsub.config.SkipNotify {
		return nil
	}
	return o.pubsub.db.NotifyOutbox(ctx, tx, o.pubsub.origin)
}

// announce tells the relay, in this or another process, that the outbox has something to
// send.
func (o *Outbox) announce() {
	signal(o.pubsub.relay)
	o.notifier.soon()
}

// Close waits for writes to the outbox that are under way, and then for the broker, at
// most 10 s or two SendTimeouts, whichever is longer. It closes the connection to the
// broker. Call it after Run has returned.
func (o *Outbox) Close() error {
	o.mu.Lock()
	closed := o.closed
	o.closed = true
	o.mu.Unlock()
	if closed {
		return nil
	}
	o.stopWork()
	o.writer.wait()
	o.notifier.wait()
	ctx, cancel := context.WithTimeout(context.Background(), max(farewell, 2*o.config.SendTimeout))
	defer cancel()
	var err error
	if !within(ctx, o.work.Wait, func() { err = o.connection.close() }) {
		return errors.New("the broker has not answered: what was being sent is sent again from the outbox, or its publisher was told")
	}
	return err
}
