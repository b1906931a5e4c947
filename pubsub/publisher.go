package pubsub

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/store"
)

// Metadata that Reprise writes to what a handler publishes.
const (
	CorrelationIDMetadata = "correlation_id" // Watermill's: the id of the event that began it all
	CausationIDMetadata   = "causation_id"   // the id of the event whose handler published this one
)

// What one statement takes at most; more is several statements in one
// transaction.
const (
	maxEvents = 2000
	maxBytes  = 8 << 20
)

// Tx is a transaction of the caller's: *sql.Tx and *sqlx.Tx are.
type Tx interface {
	wsql.ContextExecutor
	Commit() error
	Rollback() error
}

// Publisher is a Watermill publisher of events and their runs. It is
// watermill-sql's, with the statement and the connection that the store wants.
type Publisher struct {
	pubsub *PubSub
	tx     Tx // nil: a transaction of its own
}

var _ message.Publisher = (*Publisher)(nil)

// Publisher returns a publisher whose messages are committed when Publish
// returns.
func (p *PubSub) Publisher() *Publisher { return &Publisher{pubsub: p} }

// PublisherTx returns a publisher that writes in the caller's transaction:
// what it publishes exists when the caller commits, and never if not.
func (p *PubSub) PublisherTx(tx Tx) *Publisher { return &Publisher{pubsub: p, tx: tx} }

// Publish writes the messages, each as an event with a due run for every
// subscribed handler: all of them or, with an error, none. Publishing a
// message again does nothing; another payload under a UUID that the topic has
// already is store.ErrDuplicateID. A message without a UUID gets one.
//
// The first message's context bounds the call. When it ends while the database
// is at work, nobody knows whether the events were written: publish the same
// messages again, which is safe.
//
// Inside a handler, pass the handler's context on with the message
// (SetContext): the event then carries the correlation and causation ids.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	ctx := messages[0].Context()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("publish on topic %q: %w; nothing was written", topic, context.Cause(ctx))
	}
	if err := p.publish(ctx, topic, messages); err != nil {
		if p.tx == nil && ctx.Err() != nil {
			return fmt.Errorf("publish on topic %q: %w; the events may have been written: publish the same messages again to be sure", topic, err)
		}
		return fmt.Errorf("publish on topic %q: %w", topic, err)
	}
	return nil
}

func (p *Publisher) publish(ctx context.Context, topic string, messages []*message.Message) error {
	if topic == "" {
		return errors.New("the topic is empty")
	}
	for _, msg := range messages {
		if msg.UUID == "" {
			msg.UUID = uuid.Must(uuid.NewV7()).String()
		}
	}
	chunks := split(messages)
	switch {
	case p.tx != nil:
		if isNil(p.tx) {
			return errNoTx
		}
		defer signal(p.pubsub.nudge)
		return p.write(ctx, p.tx, true, topic, chunks)
	case len(chunks) == 1:
		defer signal(p.pubsub.wake)
		return p.write(ctx, p.pubsub.store.DB(), false, topic, chunks)
	default:
		defer signal(p.pubsub.wake)
		return p.inTx(ctx, func(tx *sqlx.Tx) error { return p.write(ctx, tx, true, topic, chunks) })
	}
}

func (p *Publisher) inTx(ctx context.Context, write func(*sqlx.Tx) error) error {
	tx, err := p.pubsub.store.DB().BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	if err := write(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (p *Publisher) write(ctx context.Context, db wsql.ContextExecutor, tx bool, topic string, chunks [][]*message.Message) error {
	if err := p.pubsub.subscribeRegistered(ctx, db, tx); err != nil {
		return err
	}
	for _, chunk := range chunks {
		exec := &executor{ContextExecutor: db, ctx: ctx}
		publisher, err := wsql.NewPublisher(exec, wsql.PublisherConfig{SchemaAdapter: schema{p.pubsub.store}}, watermill.NopLogger{})
		if err != nil {
			return err
		}
		if err := publisher.Publish(topic, chunk...); err != nil {
			return err
		}
		if len(exec.inserted) == len(chunk) {
			continue
		}
		if err := p.pubsub.store.CheckDuplicates(ctx, db, events(topic, chunk), exec.inserted); err != nil {
			return err
		}
	}
	return nil
}

// Close does nothing: the PubSub and the pool are closed by who made them.
// Watermill's router closes the publishers of its handlers while others may
// still publish.
func (p *Publisher) Close() error { return nil }

// split makes chunks that one statement takes.
func split(messages []*message.Message) [][]*message.Message {
	var (
		chunks [][]*message.Message
		from   int
		size   int
	)
	for i, msg := range messages {
		if i > from && (i-from == maxEvents || size+len(msg.Payload) > maxBytes) {
			chunks = append(chunks, messages[from:i])
			from, size = i, 0
		}
		size += len(msg.Payload)
	}
	return append(chunks, messages[from:])
}

func events(topic string, messages []*message.Message) []store.Event {
	events := make([]store.Event, len(messages))
	for i, msg := range messages {
		events[i] = store.Event{
			ID:       msg.UUID,
			Topic:    topic,
			Key:      msg.Metadata.Get(store.KeyMetadata),
			Payload:  msg.Payload,
			Metadata: caused(msg),
			Source:   store.SourcePublish,
		}
	}
	return events
}

// caused returns the message's metadata, with the ids of what it follows from
// when it is published inside a handler.
func caused(msg *message.Message) message.Metadata {
	cause := cqrs.OriginalMessageFromCtx(msg.Context())
	if cause == nil {
		return msg.Metadata
	}
	metadata := maps.Clone(msg.Metadata)
	if metadata == nil {
		metadata = message.Metadata{}
	}
	if metadata.Get(CausationIDMetadata) == "" {
		metadata.Set(CausationIDMetadata, cause.UUID)
	}
	if metadata.Get(CorrelationIDMetadata) == "" {
		correlation := cause.Metadata.Get(CorrelationIDMetadata)
		if correlation == "" {
			correlation = cause.UUID
		}
		metadata.Set(CorrelationIDMetadata, correlation)
	}
	return metadata
}

// schema is the store's part in watermill-sql's Publisher. Reprise does not
// use the stock subscriber, whose queries it therefore does not have.
type schema struct{ store *store.Store }

// InsertQuery implements watermill-sql's SchemaAdapter.
func (s schema) InsertQuery(topic string, messages message.Messages) (wsql.Query, error) {
	query, args, err := s.store.Insert(events(topic, messages))
	return wsql.Query{Query: query, Args: args}, err
}

// SchemaInitializingQueries returns none: package migrations makes the tables.
func (schema) SchemaInitializingQueries(string) []wsql.Query { return nil }

// SelectQuery returns none: due runs are claimed, not read by offset.
func (schema) SelectQuery(string, string, wsql.OffsetsAdapter) wsql.Query { return wsql.Query{} }

// SubscribeIsolationLevel implements watermill-sql's SchemaAdapter.
func (schema) SubscribeIsolationLevel() sql.IsolationLevel { return sql.LevelReadCommitted }

// UnmarshalMessage always fails: see SelectQuery.
func (schema) UnmarshalMessage(wsql.Scanner) (wsql.Row, error) {
	return wsql.Row{}, errors.New("messages of Reprise are read by pubsub.Subscriber, not by watermill-sql's")
}

// executor runs the one statement of a publish under the caller's context,
// which watermill-sql's Publisher does not pass on, and keeps what it returns.
type executor struct {
	wsql.ContextExecutor
	ctx      context.Context
	inserted []string // ids of the events that are new
}

func (e *executor) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	rows, err := e.QueryContext(e.ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		e.inserted = append(e.inserted, id)
	}
	return driver.RowsAffected(len(e.inserted)), rows.Err()
}

func isNil(tx Tx) bool {
	switch tx := tx.(type) {
	case *sql.Tx:
		return tx == nil
	case *sqlx.Tx:
		return tx == nil || tx.Tx == nil
	}
	return false
}
