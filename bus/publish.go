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

// ErrMaybeWritten is wrapped by the error of a Publish or InTx of which nobody
// knows whether it was committed; with any other error nothing was. To be sure,
// publish the same events again: those with an EventID are written once.
var ErrMaybeWritten = pubsub.ErrMaybeWritten

// Publish commits the events, each with a run for every subscribed handler:
// all of them or, with an error other than ErrMaybeWritten, none. It does not
// wait for handlers.
//
// An event that has a method EventKey() string gets that key. One that has a
// method EventID() string gets that id, which is to be unique on its topic:
// publishing it again does nothing, whatever its metadata is, since a handler that
// is tried again publishes it with another trace. (A message of a
// pubsub.Publisher with other metadata is another event: see there.) Inside a
// handler, pass its ctx: the event then carries correlation and causation ids.
//
// With a Transport, one event is with the broker or in the outbox when Publish
// returns; several, being all or none, go by the outbox.
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

// PublishTx writes the events in the caller's transaction, a *sql.Tx or
// *sqlx.Tx on the bus's database: they exist, and their handlers run, when the
// caller commits. After an error on PostgreSQL, roll back.
func (b *Bus) PublishTx(ctx context.Context, tx pubsub.Tx, events ...any) error {
	return b.publishTx(ctx, tx, b.onPublish, events)
}

// Send publishes a command as Publish does an event, for the one handler that
// HandleCommands has registered, by whatever process. It does not wait for it.
//
// A command that no handler is registered for is on record and has no run. That is no
// error, since the process that handles it may be deployed later: Send warns of it in
// the log, once for each command, as Publish does of an event that nobody is
// subscribed to. With a Transport nothing is known of the handlers of a command that
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

// InTx runs f in a transaction on the bus's database and commits it, or rolls
// it back when f returns an error or panics:
//
//	err := b.InTx(ctx, func(tx *bus.Tx) error {
//		if _, err := tx.ExecContext(ctx, `INSERT INTO users …`); err != nil {
//			return err
//		}
//		return b.PublishTx(ctx, tx, UserSignedUp{…})
//	})
//
// The transaction has the isolation level that is the database's default. Where
// that is serializable or repeatable read, InTx can fail with SQLSTATE 40001, as
// at any level with 40P01, a deadlock: nothing was written, and InTx does not call
// f again, since f is yours. Call InTx again, by store.Again for one.
//
// What f publishes through PublishTx reaches its handlers right after the
// commit. Keep f short: it holds slots of the handlers until then. An error of
// f is returned as it is. What f has published it must not undo by rolling back
// to a savepoint: the handlers would get it all the same. It leaves commit and
// rollback to InTx: where f has ended tx itself, InTx returns store.ErrEnded.
//
// On SQLite, and on a pool of one connection, nothing else can be written until
// f has returned: Publish and InTx return an error at once when f calls them.
// Publish in a transaction that the application has begun by itself there waits
// until its context ends: use PublishTx.
func (b *Bus) InTx(ctx context.Context, f func(tx *Tx) error) error {
	return b.pubsub.InTx(ctx, f)
}

// batch is the messages of one topic.
type batch struct {
	topic    string
	messages []*message.Message
}

// marshal makes messages of events, in order, by topic.
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

// publishTogether publishes on several topics in one transaction: the topics in
// one order everywhere, so that two of them with the same events do not deadlock.
func (b *Bus) publishTogether(ctx context.Context, batches []batch) error {
	slices.SortFunc(batches, func(a, b batch) int { return strings.Compare(a.topic, b.topic) })
	return b.pubsub.PublishInTx(ctx, func(tx *Tx) error { return publish(b.publisherTx(tx), batches) })
}
