// Package middleware holds Watermill middleware, one per file.
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

// Record records every run of the router's handlers in the store. PENDING is committed
// before the handler starts. SUCCESS, or FAILED with the error or the panic and its
// stack, is committed after the handler has ended.
//
// Record works on any subscriber. On one of package pubsub the run exists already, and
// the policy decides about a failure. On any other, Record writes the event and the run
// when the message arrives, and returns when the end is committed. It leaves acks, nacks
// and redeliveries to the subscriber. A redelivered message is another attempt of the
// same run. If the run is SUCCESS or DISCARDED, the message is acked and the handler not
// called. If the database is away, the message is nacked and the handler not called.
//
// A different message under a recorded UUID has an event and a run of its own: see
// pubsub.Publisher. Record then sets msg.UUID to the id of that event. Text that no
// database can keep is made keepable, as by an Inbox. A message without a UUID is a new
// event each time it comes.
//
// # Order
//
// Middleware inside Record (after it in AddMiddleware) belongs to the attempt: its errors
// are the attempt's, and it is called once for each attempt. Put there Transaction,
// timeouts, and Watermill's Recoverer, Throttle, CircuitBreaker and IgnoreErrors (an
// ignored error is a SUCCESS).
//
// Watermill's PoisonQueue takes a message away from its handler and hides the error. On a
// foreign subscriber put it outside Record: the run is FAILED, and then the message is
// published to the poison topic. Inside Record, the run is FAILED at once, without
// another attempt. On a subscriber of package pubsub use no PoisonQueue: FAILED replaces
// the poison queue, and outside Record PoisonQueue would publish after each attempt.
//
// Watermill's Retry works inside Record, where its tries are one attempt. On a foreign
// subscriber it also works outside, where each try is an attempt of the run. On a
// subscriber of package pubsub the policy retries: Record refuses to call the handler
// again for an attempt that has ended.
//
// An ack before the handler has returned, as by Watermill's InstantAck, does not end the
// run. A nack by the handler itself makes the attempt a failure.
//
// A handler may return messages to publish. On a subscriber of package pubsub its run is
// a SUCCESS when the router has published them and acks the message. If the message was
// acked before that, they are not published, and the run is FAILED. On any other
// subscriber the run is a SUCCESS when the handler returns, and the handler is called
// again on redelivery even then. The messages get the correlation and causation ids of
// the message that the handler got.
//
// Record passes the handler's result on unchanged, but a panic, also one in a method of
// an error, becomes a *handlers.PanicError.
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
		// The context is another handler's, and ends when that handler has ended.
		msg.SetContext(context.WithoutCancel(msg.Context()))
	}
	run, err := r.record(msg)
	return r.attempt(msg, next, run, err, func(run *store.Run, report report) *handlers.Delivery {
		return handlers.NewDelivery(run, &once, report)
	})
}

// handleAgain handles a message that reaches Record a second time, or that was
// acknowledged before it reached Record.
func (r recorder) handleAgain(msg *message.Message, next message.HandlerFunc, delivery *handlers.Delivery) ([]*message.Message, error) {
	o, decided := delivery.Decided()
	was := delivery.Run()
	switch {
	case delivery.Acknowledged():
		// The ack ended a run that had not started as a SUCCESS, and ended the context.
		msg.SetContext(context.WithoutCancel(msg.Context()))
	case !decided: // in another Record around this one
		return call(msg, next, delivery)
	case o.Status == store.Success:
		return nil, nil
	case o.Status == store.Failed && was.Instance == r.instance:
		// On a foreign subscriber, a middleware around this one tries again.
	default:
		return nil, fmt.Errorf("record: attempt %d of run %d has ended, and the handler's policy decides when there is another: put what calls a handler again, such as Watermill's Retry, after middleware.Record", was.Attempt, was.ID)
	}
	run, err := r.queue.RecordAgain(msg.Context(), was, r.instance)
	return r.attempt(msg, next, run, err, delivery.Again)
}

type report = func(o queue.Outcome, written bool) error

// attempt calls the handler for a run that Record holds. If err is not nil there is no
// run.
func (r recorder) attempt(msg *message.Message, next message.HandlerFunc, run store.Run, err error, of func(*store.Run, report) *handlers.Delivery) ([]*message.Message, error) {
	if errors.Is(err, store.ErrDone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	msg.UUID = run.EventID // the message may have had no UUID
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

// once is the policy on a foreign subscriber, which redelivers by itself.
var once = handlers.Policy{Attempts: 1, Cycles: 1}

// call runs the handler and reports its end, however it ends. If the Delivery awaits
// acks, a handler that produced messages succeeds by the ack.
func call(msg *message.Message, next message.HandlerFunc, delivery *handlers.Delivery) (produced []*message.Message, err error) {
	ctx := msg.Context() // before other middleware shortens its life
	returned := false
	defer func() {
		if returned {
			return
		}
		value := recover()
		if value == nil { // runtime.Goexit: nobody will ack the message
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
	case poisoned != nil: // the middleware outside sees a message that is dealt with
		return produced, delivery.End(ctx, poisoned)
	case closed(msg.Nacked()): // the handler nacked to ask for another attempt
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

// closed reports whether an ack or a nack was sent.
func closed(sent <-chan struct{}) bool {
	select {
	case <-sent:
		return true
	default:
		return false
	}
}

// also joins an error of ours to the handler's. Without one, err stays as it is.
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

// end writes the end of a run, even if the message's context has ended.
func (r recorder) end(ctx context.Context, o queue.Outcome) error {
	lost, err := r.queue.End(ctx, []queue.Outcome{o})
	if err == nil && len(lost) > 0 {
		err = fmt.Errorf("run %d was given to another while the handler ran: this end does not count", o.Lease.RunID)
	}
	return err
}

// makeRoom grows the stack at once, while there is little on it. Watermill gives each
// message a goroutine of its own. Its small stack would otherwise be doubled and moved
// several times on the way through the handler, which took a sixth of this process's
// time for a run.
//
//go:noinline
func makeRoom() byte {
	var room [5 << 10]byte
	return room[len(os.Args)%len(room)]
}
