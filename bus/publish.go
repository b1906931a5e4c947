package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/pubsub"
)

// ErrMaybeWritten is wrapped by the error of a Publish or InTx whose commit is in doubt.
// After any other error nothing was written. To be sure, publish the same events again:
// an event with an EventID is written once.
var ErrMaybeWritten = pubsub.ErrMaybeWritten

// Publish commits the events, each with one run for every subscribed handler. It commits
// all events or, with an error other than ErrMaybeWritten, none. It does not wait for
// handlers.
//
// An event's key is the result of its method EventKey() string, if it has one. Its id is
// the result of its method EventID() string, if it has one; the id must be unique on its
// topic. An event whose id is known is not published again, even if its metadata differs,
// since a handler that is retried publishes it with another trace. (With a
// pubsub.Publisher, a message with other metadata is another event; see there.) Inside a
// handler, pass the handler's ctx: the event then carries correlation and causation ids.
//
// With a Transport, a single event is with the broker or in the outbox when Publish
// returns. Several events of one call go into the outbox, since they are all or nothing.
func (b *Bus) Publish(ctx context.Context, events ...any) error {
	return b.publish(ctx, b.onPublish, events)
}

func (b *Bus) publish(ctx context.Context, hook hook, events []any) error {
	batches, err := b.marshal(ctx, hook, events)
	if err != nil {
		return err
	}
	if len(batches) <= 1 {
		return publish(b.publisher(), batches)
	}
	return b.publishTogether(ctx, batches)
}

// PublishTx writes the events in the caller's transaction, a *sql.Tx or *sqlx.Tx on the
// bus's database. When the caller commits, the events exist and their handlers run. After
// an error on PostgreSQL, roll back.
func (b *Bus) PublishTx(ctx context.Context, tx pubsub.Tx, events ...any) error {
	return b.publishTx(ctx, tx, b.onPublish, events)
}

// Send publishes a command, as Publish does an event, for the one handler that
// HandleCommands registered in any process. It does not wait for the handler.
//
// A command without a registered handler is recorded and has no run. This is no error,
// since the process that handles the command may be deployed later. Send logs one warning
// for each command without a handler, as Publish does for an event without a
// subscription. With a Transport, nothing is known about the handlers of a command that
// goes to the broker.
func (b *Bus) Send(ctx context.Context, command any) error {
	return b.publish(ctx, b.onSend, []any{command})
}

// SendTx writes a command in the caller's transaction, as PublishTx does events.
func (b *Bus) SendTx(ctx context.Context, tx pubsub.Tx, command any) error {
	return b.publishTx(ctx, tx, b.onSend, []any{command})
}

func (b *Bus) publishTx(ctx context.Context, tx pubsub.Tx, hook hook, events []any) error {
	if tx == nil {
		return errors.New("bus: the transaction is nil: pass the *sql.Tx or *sqlx.Tx that is open")
	}
	batches, err := b.marshal(ctx, hook, events)
	if err != nil {
		return err
	}
	return publish(b.publisherTx(tx), batches)
}

// Tx is the transaction of InTx: a *sqlx.Tx.
type Tx = pubsub.Transaction

// InTx runs f in a transaction on the bus's database and commits it. It rolls back when f
// returns an error or panics:
//
//	err := b.InTx(ctx, func(tx *bus.Tx) error {
//		if _, err := tx.ExecContext(ctx, `INSERT INTO users …`); err != nil {
//			return err
//		}
//		return b.PublishTx(ctx, tx, UserSignedUp{…})
//	})
//
// The isolation level is the database's default. At serializable or repeatable read InTx
// can fail with SQLSTATE 40001, and at any level with 40P01, a deadlock. Then nothing was
// written. InTx does not call f again; call InTx again, for example with store.Again.
//
// Events that f publishes through PublishTx reach their handlers right after the commit.
// Until then the transaction holds slots of these handlers, so keep f short. InTx returns
// an error of f unchanged. f must not undo a publish by a rollback to a savepoint: the
// handlers would get the event all the same. f must not commit or roll back tx: if it
// does, InTx returns store.ErrEnded.
//
// On SQLite, and on a pool of one connection, nothing else can be written until f has
// returned. Publish and InTx return an error at once when f calls them there. In a
// transaction that the application began itself, Publish waits there until its context
// ends: use PublishTx.
func (b *Bus) InTx(ctx context.Context, f func(tx *Tx) error) error {
	return b.pubsub.InTx(ctx, f)
}

// batch is the messages of one topic.
type batch struct {
	topic    string
	messages []*message.Message
}

// marshal makes messages of the events, grouped by topic, in order.
func (b *Bus) marshal(ctx context.Context, hook hook, events []any) ([]batch, error) {
	var batches []batch
	place := map[string]int{}
	for _, event := range events {
		topic, msg, err := handlers.Message(ctx, b.config.Marshaler, event)
		if err == nil {
			err = hook(topic, event, msg)
		}
		if err != nil {
			return nil, fmt.Errorf("bus: publish: %w", err)
		}
		i, seen := place[topic]
		if !seen {
			i = len(batches)
			place[topic] = i
			batches = append(batches, batch{topic: topic})
		}
		batches[i].messages = append(batches[i].messages, msg)
	}
	return batches, nil
}

func publish(to message.Publisher, batches []batch) error {
	for _, batch := range batches {
		if err := to.Publish(batch.topic, batch.messages...); err != nil {
			return fmt.Errorf("bus: %w", err)
		}
	}
	return nil
}

// publishTogether publishes on several topics in one transaction. It sorts the topics, so
// that two calls with the same events do not deadlock.
func (b *Bus) publishTogether(ctx context.Context, batches []batch) error {
	slices.SortFunc(batches, func(a, b batch) int { return strings.Compare(a.topic, b.topic) })
	return b.pubsub.PublishInTx(ctx, func(tx *Tx) error { return publish(b.publisherTx(tx), batches) })
}
