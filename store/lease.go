package store

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Lease is an instance's hold on a run for one attempt. It has no time limit:
// it lasts until the attempt ends or the instance is found dead.
type Lease struct {
	RunID    int64
	Instance string
	Attempt  int
}

func (l Lease) String() string {
	return fmt.Sprintf("run %d, attempt %d, held by %s", l.RunID, l.Attempt, l.Instance)
}

// Outcome is how an attempt ended.
type Outcome struct {
	Lease   Lease
	Status  Status        // Success, Failed, or Pending to make the run due again
	Delay   time.Duration // with Pending: until it is due
	Refund  bool          // with Pending: the attempt does not count
	Failure *Failure      // kept as an Attempt; required with Failed
}

// Delivery is a leased run on its way through a handler. Whoever delivers the
// message puts the Delivery into the message's context; whoever learns how the
// handler ended calls End. Safe for concurrent use.
type Delivery struct {
	lease Lease
	end   func(Outcome)
	ended atomic.Bool
}

// NewDelivery returns a Delivery that hands its outcome to end.
func NewDelivery(lease Lease, end func(Outcome)) *Delivery {
	return &Delivery{lease: lease, end: end}
}

// Lease returns the hold on the run.
func (d *Delivery) Lease() Lease { return d.lease }

// End reports how the attempt ended; the Outcome's Lease is filled in. Only
// the first call counts: it returns true, and every later one false.
func (d *Delivery) End(o Outcome) bool {
	if !d.ended.CompareAndSwap(false, true) {
		return false
	}
	o.Lease = d.lease
	d.end(o)
	return true
}

type deliveryKey struct{}

// WithDelivery returns a context that carries the delivery.
func WithDelivery(ctx context.Context, d *Delivery) context.Context {
	return context.WithValue(ctx, deliveryKey{}, d)
}

// DeliveryFrom returns the delivery that the context carries, if any: a
// message that did not come from a Subscriber of Reprise carries none.
func DeliveryFrom(ctx context.Context) (*Delivery, bool) {
	d, ok := ctx.Value(deliveryKey{}).(*Delivery)
	return d, ok
}
