// Package middleware holds Watermill middleware, one to a file.
package middleware

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

// Record keeps every run of the router's handlers in the store: PENDING is
// committed before the handler's first line; SUCCESS, or FAILED with the error
// or the panic and its stack, after its last. It belongs first in the router,
// around every other middleware whose work counts as the handler's.
//
// It works on any subscriber. On one of package pubsub the run exists already,
// and what becomes of a failed one is the policy's to decide. On any other
// Record writes the event and the run when the message arrives, returns when
// the end is committed, and leaves acks, nacks and redeliveries to the
// subscriber: a redelivered message is another attempt of the same run, unless
// the run succeeded or was discarded, in which case the message is acked and
// the handler not called. Should the database be out of reach, the handler is
// not called and the message is nacked.
//
// A handler that returns messages to publish is called again on redelivery
// even after a success, since the router publishes them after Record.
//
// Record does not change what the handler returns; a panic, also one of an
// error's own methods, becomes a *handlers.PanicError.
func Record(st *store.Store) message.HandlerMiddleware {
	r := recorder{store: st, instance: store.NewInstanceID()}
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			makeRoom()
			return r.handle(msg, next)
		}
	}
}

type recorder struct {
	store    *store.Store
	instance string
}

func (r recorder) handle(msg *message.Message, next message.HandlerFunc) ([]*message.Message, error) {
	if delivery, ours := handlers.DeliveryFrom(msg.Context()); ours {
		delivery.Take()
		return call(msg, next, delivery, true)
	}
	run, err := r.record(msg)
	if errors.Is(err, store.ErrDone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ctx := context.WithoutCancel(msg.Context())
	delivery := handlers.NewDelivery(&run, &once, func(o store.Outcome, written bool) error {
		if written {
			return nil
		}
		return r.end(ctx, o)
	})
	msg.SetContext(cqrs.CtxWithOriginalMessage(handlers.WithDelivery(msg.Context(), delivery), msg))
	return call(msg, next, delivery, false)
}

// once is the policy on a foreign subscriber, to which redelivery is left.
var once = handlers.Policy{Attempts: 1, Cycles: 1}

// call runs the handler and reports its end, whichever way it ends. With acks,
// the ack is the success of a handler that produced messages.
func call(msg *message.Message, next message.HandlerFunc, delivery *handlers.Delivery, acks bool) (produced []*message.Message, err error) {
	ctx := msg.Context() // before other middleware shortens its life
	returned := false
	defer func() {
		if returned {
			return
		}
		value := recover()
		if value == nil { // the goroutine ends here: nobody will ack the message
			defer msg.Nack()
			value = "the handler called runtime.Goexit"
		}
		err = &handlers.PanicError{Value: value, Stack: string(debug.Stack())}
		produced, err = nil, also(err, delivery.End(ctx, err))
	}()

	produced, err = next(msg)
	err = handlers.Sound(err)
	returned = true
	switch {
	case err != nil:
		return produced, also(err, delivery.End(ctx, err))
	case len(produced) > 0 && acks:
		return produced, nil // published, then acked
	default:
		return produced, delivery.End(ctx, nil)
	}
}

// also adds an error of ours to the handler's, which stays as it is otherwise.
func also(err, ours error) error {
	if ours == nil {
		return err
	}
	return errors.Join(err, ours)
}

// record writes the event and its run.
func (r recorder) record(msg *message.Message) (store.Run, error) {
	ctx := msg.Context()
	handler := message.HandlerNameFromCtx(ctx)
	if handler == "" {
		return store.Run{}, errors.New("record: the message's context names no handler: use Record as a middleware of Watermill's router")
	}
	e := store.Event{
		ID:       msg.UUID,
		Topic:    message.SubscribeTopicFromCtx(ctx),
		Key:      msg.Metadata.Get(store.KeyMetadata),
		Payload:  msg.Payload,
		Metadata: msg.Metadata,
		Source:   message.SubscriberNameFromCtx(ctx),
	}
	if e.ID == "" {
		e.ID = uuid.Must(uuid.NewV7()).String()
	}
	produces := message.PublishTopicFromCtx(ctx) != ""
	return r.store.Record(ctx, e, handler, r.instance, produces)
}

// end writes the end of a run, also when the message's context has ended.
func (r recorder) end(ctx context.Context, o store.Outcome) error {
	lost, err := r.store.End(ctx, []store.Outcome{o})
	if err == nil && len(lost) > 0 {
		err = fmt.Errorf("run %d was given to another while the handler ran: this end does not count", o.Lease.RunID)
	}
	return err
}

// makeRoom has the stack grow at once, while there is little on it. Watermill
// gives each message a goroutine of its own, whose small stack would otherwise be
// doubled, and all on it moved, again and again on the way through the handler:
// that took a sixth of what a run takes this process.
//
//go:noinline
func makeRoom() byte {
	var room [5 << 10]byte
	return room[len(os.Args)%len(room)]
}
