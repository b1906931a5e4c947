package pubsub

import (
	"context"

	"github.com/reprise-bus/reprise/store"
)

// leases is what this instance holds: runs that it leased and whose end is not
// in the database yet. PubSub.mu is held.
type leases struct {
	runs      map[int64]int       // how often: a run may be claimed again before its last end is known to be written
	highest   int64               // ever held
	inserting map[*handover]int64 // inserts under way that lease: what they create is higher than this
}

// begin notes that an insert is about to lease runs. Their ids will be higher
// than any that has been seen.
func (l *leases) begin(h *handover) { l.inserting[h] = l.highest }

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
	lowest := l.settled()
	for run := range l.runs {
		lowest = min(lowest, run)
	}
	return lowest
}

// settled is the id up to which no insert under way can have leased anything.
func (l *leases) settled() int64 {
	settled := l.highest
	for _, floor := range l.inserting {
		settled = min(settled, floor)
	}
	return settled
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
// does not, after an answer was lost. claiming is held.
func (p *PubSub) settle(ctx context.Context) error {
	if !p.unsure.Swap(false) {
		return nil
	}
	more, err := p.giveBackUnknown(ctx)
	if more || err != nil {
		p.unsure.Store(true)
	}
	return err
}

// giveBackUnknown leaves alone what an insert that is under way may just have
// leased, and says whether there is such.
func (p *PubSub) giveBackUnknown(ctx context.Context) (more bool, err error) {
	p.mu.Lock()
	settled := p.held.settled()
	p.mu.Unlock()
	leases, err := p.store.Held(ctx, p.instance)
	if err != nil {
		return false, err
	}
	var unknown []store.Outcome
	p.mu.Lock()
	for _, l := range leases {
		switch {
		case p.held.has(l.RunID):
		case l.RunID > settled && len(p.held.inserting) > 0:
			more = true
		default:
			unknown = append(unknown, store.Outcome{Lease: l, Status: store.Pending, Refund: true})
		}
	}
	p.mu.Unlock()
	_, err = p.store.End(ctx, unknown)
	if len(unknown) > 0 {
		signal(p.wake)
	}
	return more, err
}
