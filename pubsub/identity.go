package pubsub

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// identity is an instance id under which this process holds runs: runs that it leased and
// whose ends are not in the database yet.
//
// When the answer to a statement that may have leased runs is lost, its effect is
// unknown, and the server may still be executing it. From then on the process leases
// under a new identity. The old one ends the runs that it knows, gives back leases that
// it does not know, and is deregistered. A statement that runs after that leases nothing,
// since a lease needs the instance's row.
//
// Callers of all methods must hold PubSub.mu.
type identity struct {
	id        string
	runs      map[int64]int       // count per run: a run may be claimed again before its last end is known to be written
	highest   int64               // highest run id seen
	inserting map[*handover]int64 // leasing inserts under way; the runs that they create have higher ids
	claims    int64               // known claims that leased runs
	doubtful  bool                // an answer was lost
	gone      bool                // others took over its runs after a long silence

	asked time.Time // when the database was last asked for its leases; guarded by claiming
}

// newIdentity returns an identity that holds no run with an id up to newest.
func newIdentity(newest int64) *identity {
	return &identity{id: queue.NewInstanceID(), highest: newest, runs: map[int64]int{}, inserting: map[*handover]int64{}}
}

// begin notes that an insert is about to lease runs. Their ids will be higher than the
// highest id seen.
func (i *identity) begin(h *handover) { i.inserting[h] = i.highest }

func (i *identity) add(run int64) {
	i.runs[run]++
	i.saw(run)
}

func (i *identity) remove(run int64) {
	if i.runs[run]--; i.runs[run] <= 0 {
		delete(i.runs, run)
	}
}

func (i *identity) has(run int64) bool { return i.runs[run] > 0 }

// idle reports whether the identity, as far as known, holds no run and has no insert
// under way.
func (i *identity) idle() bool { return len(i.runs) == 0 && len(i.inserting) == 0 }

// saw notes the newest run.
func (i *identity) saw(run int64) { i.highest = max(i.highest, run) }

// holding returns the runs that the identity holds, or nil if they are unknown.
func (i *identity) holding() *queue.Holding {
	if i.doubtful {
		return nil
	}
	return &queue.Holding{Runs: slices.Collect(maps.Keys(i.runs)), Recent: i.settled()}
}

// settled returns the highest run id below all runs that an insert under way may lease.
func (i *identity) settled() int64 {
	settled := i.highest
	for _, floor := range i.inserting {
		settled = min(settled, floor)
	}
	return settled
}

// doubt notes that the answer to a statement that may have leased runs to the identity
// was lost.
func (p *PubSub) doubt(i *identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i.doubtful = true
}

// identity returns the identity under which runs are leased now.
func (p *PubSub) identity() *identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// forget removes runs that have ended.
func (p *PubSub) forget(ended []queue.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	identities := p.identities()
	for _, o := range ended {
		for _, i := range identities {
			if i.id == o.Lease.Instance {
				i.remove(o.Lease.RunID)
			}
		}
	}
}

// identities returns the former identities and the current one. mu must be held.
func (p *PubSub) identities() []*identity {
	return append(p.former[:len(p.former):len(p.former)], p.current)
}

// renew takes a new identity if the current one is in doubt, and gives back at once the
// leases that the old one does not know. claiming must be held.
func (p *PubSub) renew(ctx context.Context) error {
	p.mu.Lock()
	doubtful, newest := p.current.doubtful, p.current.highest
	p.mu.Unlock()
	if !doubtful {
		return nil
	}
	next := newIdentity(newest)
	if err := p.queue.Register(ctx, p.describe(next.id, p.serving())); err != nil {
		return err
	}
	p.mu.Lock()
	old := p.current
	p.former = append(p.former, old)
	p.current = next
	p.mu.Unlock()
	return p.giveBackUnknown(ctx, old)
}

// retire deregisters former identities that hold nothing, and gives back leases that the
// others do not know.
func (p *PubSub) retire(ctx context.Context) error {
	p.mu.Lock()
	former := append([]*identity(nil), p.former...)
	p.mu.Unlock()
	for _, i := range former {
		p.mu.Lock()
		idle := i.idle()
		p.mu.Unlock()
		if idle || time.Since(i.asked) > p.config.DeadAfter { // the longer the wait, the more there is to search
			if err := p.giveBackUnknown(ctx, i); err != nil {
				return err
			}
		}
		if !idle {
			continue
		}
		if err := p.queue.Deregister(ctx, i.id); err != nil {
			return err
		}
		p.mu.Lock()
		for n := range p.former {
			if p.former[n] == i {
				p.former = append(p.former[:n:n], p.former[n+1:]...)
				break
			}
		}
		p.mu.Unlock()
	}
	return nil
}

// giveBackUnknown gives back leases that the database has and this process does not know.
// It leaves leases that an insert under way may have just made.
func (p *PubSub) giveBackUnknown(ctx context.Context, i *identity) error {
	p.mu.Lock()
	settled := i.settled()
	p.mu.Unlock()
	leases, err := p.queue.Held(ctx, i.id)
	if err != nil {
		return err
	}
	i.asked = time.Now()
	var unknown []queue.Outcome
	p.mu.Lock()
	for _, l := range leases {
		if i.has(l.RunID) || l.RunID > settled && len(i.inserting) > 0 {
			continue
		}
		unknown = append(unknown, queue.Outcome{Lease: l, Status: store.Pending, Refund: true})
	}
	p.mu.Unlock()
	_, _, err = p.queue.EndUnlocked(ctx, unknown) // locked runs wait for the next call
	if len(unknown) > 0 {
		signal(p.wake)
	}
	return err
}
