package pubsub

import (
	"context"

	"github.com/reprise-bus/reprise/store"
)

// leases is what this instance holds: runs that it claimed and whose end is
// not in the database yet.
type leases struct {
	runs    map[int64]int // how often: a run may be claimed again before its last end is known to be written; PubSub.mu is held
	highest int64         // ever held; PubSub.mu is held
}

func (l *leases) add(run int64) {
	l.runs[run]++
	l.highest = max(l.highest, run)
}

func (l *leases) remove(run int64) {
	if l.runs[run]--; l.runs[run] <= 0 {
		delete(l.runs, run)
	}
}

func (l *leases) has(run int64) bool {
	return l.runs[run] > 0
}

// lowest is no higher than any run that is held, and 0 when none ever was. A
// run that is claimed later may be lower: the claim then lowers what the
// database knows.
func (l *leases) lowest() int64 {
	lowest := l.highest
	for run := range l.runs {
		lowest = min(lowest, run)
	}
	return lowest
}

// forget is told what the finisher has written.
func (p *PubSub) forget(ended []store.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range ended {
		p.held.remove(o.Lease.RunID)
	}
}

// settle gives back the leases that the database knows of and this instance
// does not, after an answer was lost.
func (p *PubSub) settle(ctx context.Context) error {
	if !p.unsure.Load() {
		return nil
	}
	p.leasing.Lock()
	defer p.leasing.Unlock()
	return p.settleLocked(ctx)
}

// settleLocked does it; leasing is held.
func (p *PubSub) settleLocked(ctx context.Context) error {
	if !p.unsure.Swap(false) {
		return nil
	}
	err := p.giveBackUnknown(ctx)
	if err != nil {
		p.unsure.Store(true)
	}
	return err
}

func (p *PubSub) giveBackUnknown(ctx context.Context) error {
	leases, err := p.store.Held(ctx, p.instance)
	if err != nil {
		return err
	}
	var unknown []store.Outcome
	p.mu.Lock()
	for _, l := range leases {
		if !p.held.has(l.RunID) {
			unknown = append(unknown, store.Outcome{Lease: l, Status: store.Pending, Refund: true})
		}
	}
	p.mu.Unlock()
	_, err = p.store.End(ctx, unknown)
	return err
}
