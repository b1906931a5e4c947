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
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// Record keeps every run of the router's handlers in the store: PENDING is
// committed before the handler's first line; SUCCESS, or FAILED with the error
// or the panic and its stack, after its last.
//
// It works on any subscriber. On one of package pubsub the run exists already,
// and the policy decides what becomes of a failed one. On any other, Record writes
// the event and the run when the message arrives, returns when the end is
// committed, and leaves acks, nacks and redeliveries to the subscriber: a
// redelivered message is another attempt of the same run, unless the run succeeded
// or was discarded, in which case the message is acked and the handler not called.
// Should the database be out of reach, the handler is not called and the message
// is nacked. Another message under the UUID of one that is on record has an event
// and a run of its own: see pubsub.Publisher. Record then sets msg.UUID to the id
// of that event. Text that no database keeps is made keepable, as by an Inbox. A
// message without a UUID is another event each time it comes.
//
// # Order
//
// What stands inside Record (after it in AddMiddleware) belongs to the attempt: its
// errors are the attempt's, and it is called once for each attempt. That is the
// place of Transaction, of timeouts, and of Watermill's Recoverer, Throttle,
// CircuitBreaker and IgnoreErrors (what it ignores is a SUCCESS).
//
// Watermill's PoisonQueue takes a message away from its handler, after which the
// error is gone. It belongs outside Record on a foreign subscriber: the run is
// FAILED, and then the message is published to the poison topic. Inside Record the
// run is FAILED at once, without another attempt. On a subscriber of package pubsub
// use none: FAILED is the poison queue, and outside Record PoisonQueue would publish
// after each attempt.
//
// Watermill's Retry works inside Record, where its tries are one attempt, and on a
// foreign subscriber also outside, where each is an attempt of the run. On a
// subscriber of package pubsub, Record refuses to call the handler again for an
// attempt that has ended: the policy tries again.
//
// An ack before the handler has returned, as by Watermill's InstantAck, does not end
// the run. A nack by the handler itself makes the attempt a failure.
//
// A handler that returns messages to publish has succeeded, on a subscriber of
// package pubsub, when the router has published them and acks the message; with an
// ack before that they are not published, and the run is FAILED. On any other
// subscriber it has succeeded when it returns, and is called again on redelivery
// even then. The messages get the correlation and causation ids of the one that the
// handler was given.
//
// Record does not change what the handler returns; a panic, also one of an
// error's own methods, becomes a *handlers.PanicError.
func Record(st *store.Store) message.HandlerMiddleware {
	r := recorder{store: st, instance: queue.NewInstanceID()}
	if st != nil { // reprisetest has no store: its runs are in memory
		r.queue = queue.Of(st)
	}
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			makeRoom()
			return r.handle(msg, next)
		}
	}
}

type recorder struct {
	store    *store.Store
	queue    *queue.Queue
	instance string
}

func (r recorder) handle(msg *message.Message, next message.HandlerFunc) ([]*message.Message, error) {
	delivery, ours := handlers.DeliveryOf(msg)
	if ours && delivery.Begin(msg) {
		return call(msg, next, delivery)
	}
	if ours {
		return r.handleAgain(msg, next, delivery)
	}
	if delivery != nil {
		// The context is that of another handler, and ends when that one has.
		msg.SetContext(context.WithoutCancel(msg.Context()))
	}
	run, err := r.record(msg)
	return r.attempt(msg, next, run, err, func(run *store.Run, report report) *handlers.Delivery {
		return handlers.NewDelivery(run, &once, report)
	})
}

// handleAgain takes up a message that comes here for the second time, or that was
// acknowledged before it came.
func (r recorder) handleAgain(msg *message.Message, next message.HandlerFunc, delivery *handlers.Delivery) ([]*message.Message, error) {
	o, decided := delivery.Decided()
	was := delivery.Run()
	switch {
	case delivery.Acknowledged():
		// The ack has made a SUCCESS of a run that has not started, and has ended
		// the context.
		msg.SetContext(context.WithoutCancel(msg.Context()))
	case !decided: // in another Record, around this one
		return call(msg, next, delivery)
	case o.Status == store.Success:
		return nil, nil
	case o.Status == store.Failed && was.Instance == r.instance:
		// On a foreign subscriber: tried again by a middleware around this one.
	default:
		return nil, fmt.Errorf("record: attempt %d of run %d has ended, and the handler's policy decides when there is another: put what calls a handler again, such as Watermill's Retry, after middleware.Record", was.Attempt, was.ID)
	}
	run, err := r.queue.RecordAgain(msg.Context(), was, r.instance)
	return r.attempt(msg, next, run, err, delivery.Again)
}

type report = func(o queue.Outcome, written bool) error

// attempt calls the handler for a run that Record holds, unless err says that there
// is none.
func (r recorder) attempt(msg *message.Message, next message.HandlerFunc, run store.Run, err error, of func(*store.Run, report) *handlers.Delivery) ([]*message.Message, error) {
	if errors.Is(err, store.ErrDone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	msg.UUID = run.EventID // which the message may not have had
	ctx := context.WithoutCancel(msg.Context())
	delivery := of(&run, func(o queue.Outcome, written bool) error {
		if written {
			return nil
		}
		return r.end(ctx, o)
	}).For(msg, nil)
	delivery.Begin(msg)
	msg.SetContext(cqrs.CtxWithOriginalMessage(handlers.WithDelivery(msg.Context(), delivery), msg))
	return call(msg, next, delivery)
}

// once is the policy on a foreign subscriber, to which redelivery is left.
var once = handlers.Policy{Attempts: 1, Cycles: 1}

// call runs the handler and reports its end, whichever way it ends. Where somebody
// waits for acks, the ack is the success of a handler that produced messages.
func call(msg *message.Message, next message.HandlerFunc, delivery *handlers.Delivery) (produced []*message.Message, err error) {
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

	taken := watchPoison(msg)
	produced, err = next(msg)
	err = handlers.SafeError(err)
	returned = true
	poisoned := taken()
	switch {
	case err != nil:
		return produced, also(err, delivery.End(ctx, err))
	case poisoned != nil: // the middleware outside sees that the message is dealt with
		return produced, delivery.End(ctx, poisoned)
	case closed(msg.Nacked()): // by the handler, which asks for another attempt
		return produced, delivery.End(ctx, handlers.ErrNacked)
	case len(produced) == 0:
		return produced, delivery.End(ctx, nil)
	}
	for _, p := range produced {
		if p != nil && p != msg {
			p.Metadata = handlers.Follow(p.Metadata, msg)
		}
	}
	if !delivery.AwaitsAck() {
		return produced, delivery.End(ctx, nil)
	}
	if closed(msg.Acked()) {
		err = handlers.Permanent(errors.New("the message was acknowledged before the messages that the handler returned were published, and nobody would know if that failed: they are not published; do not acknowledge within the handler, as Watermill's InstantAck does"))
		return nil, also(err, delivery.End(ctx, err))
	}
	delivery.AwaitAck()
	return produced, nil // published, then acked
}

// closed says whether an ack or a nack was sent.
func closed(sent <-chan struct{}) bool {
	select {
	case <-sent:
		return true
	default:
		return false
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
	return r.queue.Record(ctx, e.Keepable().Unmark(), handler, r.instance, produces)
}

// end writes the end of a run, also when the message's context has ended.
func (r recorder) end(ctx context.Context, o queue.Outcome) error {
	lost, err := r.queue.End(ctx, []queue.Outcome{o})
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
