package pubsub

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

// Metadata that Reprise writes to what a handler publishes.
const (
	CorrelationIDMetadata = store.CorrelationIDMetadata // Watermill's: the id of the event that began it all
	CausationIDMetadata   = store.CausationIDMetadata   // the id of the event whose handler published this one
)

// Tx is a transaction of the caller's: *sql.Tx, *sqlx.Tx and *Transaction are.
type Tx interface {
	wsql.ContextExecutor
	Commit() error
	Rollback() error
}

// Publisher is a Watermill publisher of events and their runs. It is
// watermill-sql's, with the statement and the connection that the store wants.
type Publisher struct {
	pubsub *PubSub
	tx     Tx // nil: committed on its own
}

var _ message.Publisher = (*Publisher)(nil)

// Publisher returns a publisher whose messages are committed when Publish
// returns. Concurrent calls share statements.
func (p *PubSub) Publisher() *Publisher { return &Publisher{pubsub: p} }

// PublisherTx returns a publisher that writes in the caller's transaction:
// what it publishes exists when the caller commits, and never if not. With the
// Transaction of InTx, runs are handed to their handlers right after the
// commit; with any other they are due, and found by notice or by poll.
func (p *PubSub) PublisherTx(tx Tx) *Publisher { return &Publisher{pubsub: p, tx: tx} }

// Publish writes the messages, each as an event with a run for every
// subscribed handler: all of them or, with an error other than ErrMaybeWritten,
// none. A message without a UUID gets one.
//
// Publishing the very same message again (UUID, payload and metadata) does nothing,
// and is logged. The same UUID and payload with other metadata is another event,
// which repeats the first: so Watermill's PoisonQueue and requeuer publish. It gets
// an id of its own, the same whenever it is published, the first one's id in its
// metadata (store.RepeatsMetadata), and runs. Correlation and causation ids and the
// trace make no difference. Another payload under a UUID that the topic has already
// is store.ErrDuplicateID.
//
// The first message's context bounds the call, which returns at once when it
// ends; the error says whether the events may have been written. If so,
// publish the same messages again, which is safe.
//
// Inside a handler, pass the handler's context on with the message
// (SetContext): the event then carries the correlation and causation ids.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	if err := p.publish(messages[0].Context(), topic, messages); err != nil {
		return fmt.Errorf("publish on topic %q: %w", topic, err)
	}
	return nil
}

func (p *Publisher) publish(ctx context.Context, topic string, messages []*message.Message) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w; nothing was written", context.Cause(ctx))
	}
	if err := p.pubsub.config.checkSizes(topic, messages); err != nil {
		return nothingWritten(err)
	}
	events, err := eventsOf(topic, messages)
	switch {
	case err != nil:
		return err
	case p.tx == nil:
		if err := p.pubsub.wouldWaitForItself(ctx); err != nil {
			return err
		}
		return p.pubsub.writer.publish(ctx, events)
	case isNil(p.tx):
		return errNilTx
	default:
		return p.pubsub.publishTx(ctx, p.tx, events)
	}
}

var (
	errWaitForItself = errors.New("a transactional handler on SQLite holds the one connection that can write: publish in its transaction, bus.PublishTx(ctx, tx, …) with the tx of handlers.Tx(ctx); nothing was written")
	errInsideItself  = fmt.Errorf("publish in the transaction that is open, bus.PublishTx(ctx, tx, …) with the tx of InTx, or of handlers.Tx(ctx) in a transactional handler, and begin no other: %w", store.ErrWaitsForItself)
)

// wouldWaitForItself returns an error when ctx is that of a handler whose
// transaction keeps everything else from being written, or when the caller is
// the code of such a transaction.
func (p *PubSub) wouldWaitForItself(ctx context.Context) error {
	if _, transactional := handlers.Tx(ctx); transactional && p.db.OneWriter() {
		return errWaitForItself
	}
	if p.db.WaitsForItself() {
		return errInsideItself
	}
	return nil
}

// Close does nothing: the PubSub and the pool are closed by who made them.
// Watermill's router closes the publishers of its handlers while others may
// still publish.
func (p *Publisher) Close() error { return nil }

// eventsOf copies the messages, so that the caller may do with them what it
// likes, and checks them, so that a bad one fails before it is among others.
func eventsOf(topic string, messages []*message.Message) ([]store.Event, error) {
	if err := store.ValidTopic(topic); err != nil {
		return nil, err
	}
	events := make([]store.Event, len(messages))
	for i, msg := range messages {
		if msg.UUID == "" {
			msg.UUID = uuid.Must(uuid.NewV7()).String()
		}
		events[i] = EventOf(topic, msg)
		if err := events[i].Validate(); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// EventOf returns the event that a message with a UUID is published as. It
// shares nothing with the message.
func EventOf(topic string, msg *message.Message) store.Event {
	return store.Event{
		ID:       msg.UUID,
		Topic:    topic,
		Key:      msg.Metadata.Get(store.KeyMetadata),
		Payload:  bytes.Clone(msg.Payload),
		Metadata: metadataOf(msg),
		Source:   store.SourcePublish,
		Declared: handlers.Declared(msg),
	}
}

// metadataOf returns the message's metadata, with the ids and the trace of what
// it follows from when it is published inside a handler.
func metadataOf(msg *message.Message) message.Metadata {
	metadata := maps.Clone(msg.Metadata)
	if cause := cqrs.OriginalMessageFromCtx(msg.Context()); cause != nil {
		return handlers.Follow(metadata, cause)
	}
	return metadata
}

func isNil(tx Tx) bool {
	switch tx := tx.(type) {
	case *sql.Tx:
		return tx == nil
	case *sqlx.Tx:
		return tx == nil || tx.Tx == nil
	case *Transaction:
		return tx == nil || tx.Tx == nil
	}
	return false
}
