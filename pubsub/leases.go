package pubsub

import "github.com/reprise-bus/reprise/store"

// leases is what this instance holds: runs that it claimed and whose end is
// not in the database yet.
type leases struct {
	runs    map[int64]int // how often: a run may be claimed again before its last end is known to be written; PubSub.mu is held
	highest int64         // ever held; PubSub.mu is held
	unsure  bool          // the database may know more of them; PubSub.leasing is held
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
