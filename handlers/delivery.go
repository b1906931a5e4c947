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

// Delivery carries a leased run through its handler. The code that delivers the message
// puts the Delivery into the message's context. End, Abort, Acknowledge and Committed
// report the end of the run; only the first report counts. Safe for concurrent use.
//
// A context can outlive its message: a handler that publishes through Watermill's
// GoChannel with PreserveContext passes its context to other handlers. A Delivery
// therefore counts for one message, one handler and one attempt only.
type Delivery struct {
	run     *store.Run
	policy  *Policy
	report  func(o queue.Outcome, written bool) error
	msg     *message.Message // nil: any message with the id of the run's event
	acks    func()           // waits for the ack of the message without blocking; may be nil
	begun   atomic.Pointer[begin]
	decided atomic.Pointer[decision] // set when the handler has ended; callbacks may still run
	ended   atomic.Bool              // the end is reported
}

// begin is the message and the handler of the middleware that has begun a Delivery.
// Without a message, an ack or a nack ended the Delivery before any middleware began.
type begin struct {
	msg            *message.Message
	handler, topic string // the router's names
}

// NewDelivery returns a Delivery that passes its end to report, once. written means that
// the end is in the database already. The run and the policy must not change while the
// Delivery is in use.
func NewDelivery(run *store.Run, policy *Policy, report func(o queue.Outcome, written bool) error) *Delivery {
	return &Delivery{run: run, policy: policy, report: report}
}

// For makes the Delivery count for this message only, and returns the Delivery. AwaitAck
// calls wait when the handler has returned messages to publish. wait must not block; its
// owner then calls End upon the message's ack or nack. Call For before the Delivery is
// put into the message's context.
func (d *Delivery) For(msg *message.Message, wait func()) *Delivery {
	d.msg, d.acks = msg, wait
	return d
}

// Begin records that a middleware is about to call the handler. From then on the
// middleware reports the end, and Acknowledge does nothing. Begin returns false if the
// attempt has begun or ended before.
func (d *Delivery) Begin(msg *message.Message) bool {
	ctx := msg.Context()
	b := &begin{msg, message.HandlerNameFromCtx(ctx), message.SubscribeTopicFromCtx(ctx)}
	return d.decided.Load() == nil && d.begun.CompareAndSwap(nil, b)
}

// Begun reports whether a middleware has begun. It will report the end, whatever happens
// to the message.
func (d *Delivery) Begun() bool {
	b := d.begun.Load()
	return b != nil && b.msg != nil
}

// Acknowledge ends the run by the message's ack (err is nil) or nack. If a middleware has
// begun, Acknowledge does nothing: the message was acknowledged inside the handler, and
// the middleware reports the end.
func (d *Delivery) Acknowledge(ctx context.Context, err error) error {
	if !d.begun.CompareAndSwap(nil, &begin{}) {
		return nil
	}
	return d.End(ctx, err)
}

// Acknowledged reports whether Acknowledge ended the run before a middleware began.
func (d *Delivery) Acknowledged() bool {
	b := d.begun.Load()
	return b != nil && b.msg == nil
}

// AwaitsAck reports whether the Delivery has a function that waits for the ack.
func (d *Delivery) AwaitsAck() bool { return d.acks != nil }

// AwaitAck leaves the end to the message's ack or nack. The router acks the message when
// it has published what the handler returned.
func (d *Delivery) AwaitAck() { d.acks() }

// Decided returns the outcome and true once there is one. The outcome is final, but may
// not be reported yet.
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

// End reports that the handler ended with err. The policy decides the outcome; the
// callbacks that it asks for are called first. End returns the error of report.
func (d *Delivery) End(ctx context.Context, err error) error {
	err = SafeError(err)
	o := d.policy.Decide(*d.run, err)
	lost := errors.Is(err, store.ErrLeaseLost) // another instance holds the run and decides its end
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

// Abort reports an outcome that is not the handler's: the run was never started, or was
// interrupted. If a callback is running, the handler's outcome is reported, with a
// failure of kind "callback". Abort returns true if this call reported the end.
func (d *Delivery) Abort(o queue.Outcome) bool {
	if !d.decide(o, false) {
		first := d.decided.Load()
		if !first.calling {
			return false
		}
		o = first.outcome
		o.Callback = &store.Failure{Kind: store.KindCallback, Message: "the process shut down before the callback had returned"}
	}
	first, _ := d.end(o, false) // the caller of Abort has no use for the error
	return first
}

// Committed reports a success that is in the database already.
func (d *Delivery) Committed() {
	o := queue.Outcome{Status: store.Success}
	if d.decide(o, false) {
		_, _ = d.end(o, true)
	}
}

// decision is an outcome, and whether callbacks are called before it is reported.
type decision struct {
	outcome queue.Outcome
	calling bool
}

// decide stores the first outcome. It returns false if there was one before.
func (d *Delivery) decide(o queue.Outcome, calling bool) bool {
	return d.decided.CompareAndSwap(nil, &decision{o, calling})
}

// end reports the outcome, once.
func (d *Delivery) end(o queue.Outcome, written bool) (first bool, err error) {
	if !d.ended.CompareAndSwap(false, true) {
		return false, nil
	}
	o.Lease = queue.LeaseOf(*d.run)
	return true, d.report(o, written)
}

// callBack calls the callbacks that are due for the outcome, and returns their failures
// as one.
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

// call calls one callback, with the timeout of an attempt, in a goroutine of its own: the
// callback may call runtime.Goexit.
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

// joined makes one failure of the failures of several callbacks.
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

// DeliveryFrom returns the delivery that ctx carries, if any. It returns false in the
// context of another handler, which may have got this one with a message.
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

// DeliveryOf returns the delivery that the message's context carries, and whether it was
// made for this message. After Begin, only the message given to Begin counts, and no copy
// of it.
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
	// msg may be a copy made by a subscriber's decorator.
	return d, msg.UUID == d.run.EventID && (d.msg == nil || within(ctx, d.run.Handler, d.run.Topic))
}

// within reports whether handler and topic are the router's latest in ctx.
func within(ctx context.Context, handler, topic string) bool {
	return message.HandlerNameFromCtx(ctx) == handler && message.SubscribeTopicFromCtx(ctx) == topic
}
