package handlers

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// Delivery is a leased run on its way through its handler. Whoever delivers
// the message puts the Delivery into the message's context; whoever learns how
// the handler ended calls End, and of several the first counts. Safe for
// concurrent use.
//
// A context travels further than its message: a handler that publishes through
// Watermill's GoChannel with PreserveContext gives it to other handlers. A
// Delivery therefore counts for one message, one handler and one attempt only.
type Delivery struct {
	run     *store.Run
	policy  *Policy
	report  func(o queue.Outcome, written bool) error
	msg     *message.Message // nil: any with the id of the run's event
	acks    func()           // waits for the ack of the message, and does not block
	begun   atomic.Pointer[begin]
	decided atomic.Pointer[decision] // the handler's part is over, its callbacks' perhaps not
	ended   atomic.Bool              // it is reported
}

// begin is the message and the handler that a middleware has begun a Delivery
// with; without a message, an ack or a nack has ended it before any middleware.
type begin struct {
	msg            *message.Message
	handler, topic string // as the router names them
}

// NewDelivery returns a Delivery whose end is told to report, once; written
// says that the database has it already. Nobody changes the run or the policy
// as long as it lasts.
func NewDelivery(run *store.Run, policy *Policy, report func(o queue.Outcome, written bool) error) *Delivery {
	return &Delivery{run: run, policy: policy, report: report}
}

// For makes the Delivery count for this message only. wait is called when the
// handler has returned messages to publish: it must not block, and whoever made
// the Delivery then calls End with the ack or the nack of the message. Call For
// before the Delivery is in the message's context; it returns the Delivery.
func (d *Delivery) For(msg *message.Message, wait func()) *Delivery {
	d.msg, d.acks = msg, wait
	return d
}

// Begin says that a middleware is about to call the handler, and will report its
// end: from then on Acknowledge does nothing. It returns false when the attempt
// was begun or has ended before.
func (d *Delivery) Begin(msg *message.Message) bool {
	ctx := msg.Context()
	b := &begin{msg, message.HandlerNameFromCtx(ctx), message.SubscribeTopicFromCtx(ctx)}
	return d.decided.Load() == nil && d.begun.CompareAndSwap(nil, b)
}

// Begun says whether a middleware has begun, and will report the end whatever
// becomes of the message.
func (d *Delivery) Begun() bool {
	b := d.begun.Load()
	return b != nil && b.msg != nil
}

// Acknowledge reports an end that the message's ack (err is nil) or nack tells,
// unless a middleware has begun: then the message was acknowledged from within the
// handler, and the middleware reports the end.
func (d *Delivery) Acknowledge(ctx context.Context, err error) error {
	if !d.begun.CompareAndSwap(nil, &begin{}) {
		return nil
	}
	return d.End(ctx, err)
}

// Acknowledged says whether the end was told by Acknowledge, before a middleware
// has begun.
func (d *Delivery) Acknowledged() bool {
	b := d.begun.Load()
	return b != nil && b.msg == nil
}

// AwaitsAck says whether whoever made the Delivery can wait for acks.
func (d *Delivery) AwaitsAck() bool { return d.acks != nil }

// AwaitAck leaves the end to the message's ack or nack: the router acks it when it
// has published what the handler returned.
func (d *Delivery) AwaitAck() { d.acks() }

// Decided returns the outcome, once there is one: it is final, but perhaps not
// reported yet.
func (d *Delivery) Decided() (queue.Outcome, bool) {
	if first := d.decided.Load(); first != nil {
		return first.outcome, true
	}
	return queue.Outcome{}, false
}

// Again returns a Delivery of another attempt of the run, under the same policy.
func (d *Delivery) Again(run *store.Run, report func(o queue.Outcome, written bool) error) *Delivery {
	return NewDelivery(run, d.policy, report)
}

// Run returns the run as it was leased.
func (d *Delivery) Run() store.Run { return *d.run }

// End reports how the handler ended, with the outcome that the policy decides
// and after the callbacks that it asks for. It returns the report's error.
func (d *Delivery) End(ctx context.Context, err error) error {
	err = SafeError(err)
	o := d.policy.Decide(*d.run, err)
	lost := errors.Is(err, store.ErrLeaseLost) // the run is another's by now, and so is its end
	calling := !lost && (o.NextCycle || o.Status == store.Failed)
	if !d.decide(o, calling) {
		return nil
	}
	if calling {
		o.Callback = d.callBack(ctx, o, err)
	}
	_, err = d.end(o, false)
	return err
}

// Abort reports an outcome that is not the handler's: the run was never
// started, or interrupted. When it is a callback that is interrupted, the
// handler's outcome stands. It says whether that was the end of it.
func (d *Delivery) Abort(o queue.Outcome) bool {
	if !d.decide(o, false) {
		first := d.decided.Load()
		if !first.calling {
			return false
		}
		o = first.outcome
		o.Callback = &store.Failure{Kind: store.KindCallback, Message: "the process shut down before the callback had returned"}
	}
	first, _ := d.end(o, false) // who aborts has nobody to tell
	return first
}

// Committed reports a success that the database has already.
func (d *Delivery) Committed() {
	o := queue.Outcome{Status: store.Success}
	if d.decide(o, false) {
		_, _ = d.end(o, true)
	}
}

// decision is an outcome, and whether callbacks are called before it is
// reported.
type decision struct {
	outcome queue.Outcome
	calling bool
}

// decide says whether this is the first outcome, which stands.
func (d *Delivery) decide(o queue.Outcome, calling bool) bool {
	return d.decided.CompareAndSwap(nil, &decision{o, calling})
}

// end reports, once.
func (d *Delivery) end(o queue.Outcome, written bool) (first bool, err error) {
	if !d.ended.CompareAndSwap(false, true) {
		return false, nil
	}
	o.Lease = queue.LeaseOf(*d.run)
	return true, d.report(o, written)
}

// callBack calls what the policy has to be called for the outcome, and returns
// what failed of it.
func (d *Delivery) callBack(ctx context.Context, o queue.Outcome, cause error) *store.Failure {
	run := *d.run
	run.Status, run.ErrorKind, run.Error, run.Fingerprint = o.Status, o.Failure.Kind, o.Failure.Message, o.Failure.Fingerprint
	if o.Status == store.Pending {
		run.DueAt = time.Now().Add(o.Delay).UTC()
	}
	var failures []*store.Failure
	for _, c := range []struct {
		name string
		call Callback
		due  bool
	}{
		{"OnFailure", d.policy.OnFailure, true},
		{"OnExhausted", d.policy.OnExhausted, o.Status == store.Failed},
	} {
		if c.call == nil || !c.due {
			continue
		}
		if err := SafeError(d.call(ctx, c.call, run, cause)); err != nil {
			f := Failure(run.Handler, err)
			f.Message = c.name + ": " + f.Message
			failures = append(failures, &f)
		}
	}
	return joined(failures)
}

// call calls one callback, which gets as long as an attempt, in a goroutine that
// it may end.
func (d *Delivery) call(ctx context.Context, callback Callback, run store.Run, cause error) error {
	if timeout := d.policy.AttemptTimeout(); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the callback's timeout of %v is over", timeout))
		defer cancel()
	}
	ended := make(chan error, 1)
	go func() {
		err := errors.New("the callback called runtime.Goexit")
		defer func() {
			if value := recover(); value != nil {
				err = &PanicError{Value: value, Stack: string(debug.Stack())}
			}
			ended <- err
		}()
		err = callback(ctx, run, cause)
	}()
	return <-ended
}

// joined makes one failure of those of several callbacks.
func joined(failures []*store.Failure) *store.Failure {
	if len(failures) == 0 {
		return nil
	}
	var messages, stacks []string
	for _, f := range failures {
		messages = append(messages, f.Message)
		if f.Stack != "" {
			stacks = append(stacks, f.Stack)
		}
	}
	return &store.Failure{Kind: store.KindCallback, Message: strings.Join(messages, "; "), Stack: strings.Join(stacks, "\n")}
}

type deliveryKey struct{}

// WithDelivery returns a context that carries the delivery.
func WithDelivery(ctx context.Context, d *Delivery) context.Context {
	return context.WithValue(ctx, deliveryKey{}, d)
}

// DeliveryFrom returns the delivery that the context carries, if any. The context
// must be that of the delivery's handler: in a handler that another handler's
// context has reached with a message, there is none.
func DeliveryFrom(ctx context.Context) (*Delivery, bool) {
	d, ok := ctx.Value(deliveryKey{}).(*Delivery)
	if !ok {
		return nil, false
	}
	if b := d.begun.Load(); b != nil && b.msg != nil && !within(ctx, b.handler, b.topic) {
		return nil, false
	}
	return d, true
}

// DeliveryOf returns the delivery that the message's context carries, and whether
// it was made for this message. Once Begin was called, that is the message of Begin
// and no copy.
func DeliveryOf(msg *message.Message) (*Delivery, bool) {
	ctx := msg.Context()
	d, ok := ctx.Value(deliveryKey{}).(*Delivery)
	if !ok {
		return nil, false
	}
	if b := d.begun.Load(); b != nil && b.msg != nil {
		return d, b.msg == msg && within(ctx, b.handler, b.topic)
	}
	if d.msg == msg {
		return d, true
	}
	// It may be a copy that a subscriber's decorator has made.
	return d, msg.UUID == d.run.EventID && (d.msg == nil || within(ctx, d.run.Handler, d.run.Topic))
}

// within says whether the router has named this handler and topic last.
func within(ctx context.Context, handler, topic string) bool {
	return message.HandlerNameFromCtx(ctx) == handler && message.SubscribeTopicFromCtx(ctx) == topic
}
