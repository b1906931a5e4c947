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

// Metadata keys that Reprise sets on messages that a handler publishes.
const (
	CorrelationIDMetadata = store.CorrelationIDMetadata // Watermill's: the id of the first event of the chain
	CausationIDMetadata   = store.CausationIDMetadata   // the id of the event whose handler published this one
)

// Tx is a caller's transaction: a *sql.Tx, a *sqlx.Tx or a *Transaction.
type Tx interface {
	wsql.ContextExecutor
	Commit() error
	Rollback() error
}

// Publisher is a Watermill publisher that writes events and their runs.
type Publisher struct {
	pubsub *PubSub
	tx     Tx // nil: each publish commits by itself
}

var _ message.Publisher = (*Publisher)(nil)

// Publisher returns a publisher whose messages are committed when Publish returns.
// Concurrent calls share statements.
func (p *PubSub) Publisher() *Publisher { return &Publisher{pubsub: p} }

// PublisherTx returns a publisher that writes in the caller's transaction. The events
// exist when the caller has committed; after a rollback they do not. With the Transaction
// of InTx, runs are handed to their handlers right after the commit. With any other
// transaction they are due, and found by a notice or by polling.
func (p *PubSub) PublisherTx(tx Tx) *Publisher { return &Publisher{pubsub: p, tx: tx} }

// Publish writes the messages, each as an event with one run for every subscribed
// handler. It writes all of them or, with an error other than ErrMaybeWritten, none. A
// message without a UUID gets one.
//
// A message with the UUID, payload and metadata of a published one is not published
// again; this is logged. A message with the same UUID and payload and other metadata is
// another event, which repeats the first; Watermill's PoisonQueue and requeuer publish
// such messages. The repeat gets runs, and an id made of its content, which is the same
// at each publish. Its metadata has the first event's id (store.RepeatsMetadata).
// Correlation and causation ids and the trace do not count as a difference. Another
// payload under a UUID that the topic has already is store.ErrDuplicateID.
//
// When the first message's context ends, Publish returns at once. The error says whether
// the events may have been written. If so, publish the same messages again; this is safe.
//
// Inside a handler, set the handler's context on the message (SetContext): the event then
// carries the correlation and causation ids.
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

// wouldWaitForItself returns an error if ctx is that of a handler whose transaction keeps
// everything else from being written, or if the caller runs inside such a transaction.
func (p *PubSub) wouldWaitForItself(ctx context.Context) error {
	if _, transactional := handlers.Tx(ctx); transactional && p.db.OneWriter() {
		return errWaitForItself
	}
	if p.db.WaitsForItself() {
		return errInsideItself
	}
	return nil
}

// Close does nothing: the owners of the PubSub and the pool close them. Watermill's
// router closes the publishers of its handlers while others may still publish.
func (p *Publisher) Close() error { return nil }

// eventsOf copies the messages, so that the caller may change them afterwards. It
// validates them, so that an invalid message fails before it is written together with
// others.
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

// EventOf returns the event that a message with a UUID is published as. The event shares
// no memory with the message.
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

// metadataOf returns the message's metadata. Inside a handler it adds the ids and the
// trace of the message being handled.
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
