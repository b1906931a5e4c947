package handlers

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Delivery is a leased run on its way through its handler. Whoever delivers
// the message puts the Delivery into the message's context; whoever learns how
// the handler ended calls End, and of several the first counts. Safe for
// concurrent use.
type Delivery struct {
	run     *store.Run
	policy  *Policy
	report  func(o store.Outcome, written bool) error
	decided atomic.Pointer[decision] // the handler's part is over, its callbacks' perhaps not
	ended   atomic.Bool              // it is reported
	taken   atomic.Bool
}

// NewDelivery returns a Delivery whose end is told to report, once; written
// says that the database has it already. Nobody changes the run or the policy
// as long as it lasts.
func NewDelivery(run *store.Run, policy *Policy, report func(o store.Outcome, written bool) error) *Delivery {
	return &Delivery{run: run, policy: policy, report: report}
}

// Run returns the run as it was leased.
func (d *Delivery) Run() store.Run { return *d.run }

// Take says that the caller will report the end: middleware.Record does.
func (d *Delivery) Take() { d.taken.Store(true) }

// Taken says whether somebody will report the end, whatever becomes of the message.
func (d *Delivery) Taken() bool { return d.taken.Load() }

// End reports how the handler ended, with the outcome that the policy decides
// and after the callbacks that it asks for. It returns the report's error.
func (d *Delivery) End(ctx context.Context, err error) error {
	err = Sound(err)
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
func (d *Delivery) Abort(o store.Outcome) bool {
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
	o := store.Outcome{Status: store.Success}
	if d.decide(o, false) {
		_, _ = d.end(o, true)
	}
}

// decision is an outcome, and whether callbacks are called before it is
// reported.
type decision struct {
	outcome store.Outcome
	calling bool
}

// decide says whether this is the first outcome, which stands.
func (d *Delivery) decide(o store.Outcome, calling bool) bool {
	return d.decided.CompareAndSwap(nil, &decision{o, calling})
}

// end reports, once.
func (d *Delivery) end(o store.Outcome, written bool) (first bool, err error) {
	if !d.ended.CompareAndSwap(false, true) {
		return false, nil
	}
	o.Lease = d.run.Lease()
	return true, d.report(o, written)
}

// callBack calls what the policy has to be called for the outcome, and returns
// what failed of it.
func (d *Delivery) callBack(ctx context.Context, o store.Outcome, cause error) *store.Failure {
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
		if err := Sound(d.call(ctx, c.call, run, cause)); err != nil {
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

// DeliveryFrom returns the delivery that the context carries, if any.
func DeliveryFrom(ctx context.Context) (*Delivery, bool) {
	d, ok := ctx.Value(deliveryKey{}).(*Delivery)
	return d, ok
}
