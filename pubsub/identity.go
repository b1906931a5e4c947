package pubsub

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// identity is an instance id under which this process holds runs: those that it
// leased and whose end is not in the database yet.
//
// When the answer to a statement that may have leased runs is lost, nobody
// knows what it did, nor whether it will still do it: the server may be at it
// for as long as something blocks it. From then on the process leases under a
// new identity. The old one ends the runs that it knows of, gives back what it
// finds that it does not, and is forgotten; what comes later than that leases
// nothing, since a lease needs the instance's row.
//
// PubSub.mu is held by the callers of all methods.
type identity struct {
	id        string
	runs      map[int64]int       // how often: a run may be claimed again before its last end is known to be written
	highest   int64               // run ever seen
	inserting map[*handover]int64 // inserts under way that lease: what they create is higher than this
	claims    int64               // that leased runs, as far as one knows
	doubtful  bool                // an answer was lost
	gone      bool                // it was silent for so long that others took over

	asked time.Time // when the database was last asked what it holds; claiming is held for this
}

// newIdentity returns one that holds no run up to the newest that has been seen.
func newIdentity(newest int64) *identity {
	return &identity{id: queue.NewInstanceID(), highest: newest, runs: map[int64]int{}, inserting: map[*handover]int64{}}
}

// begin notes that an insert is about to lease runs. Their ids will be higher
// than any that has been seen.
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

// idle says that nothing is held or on its way, as far as one knows.
func (i *identity) idle() bool { return len(i.runs) == 0 && len(i.inserting) == 0 }

// saw notes the newest run that there is.
func (i *identity) saw(run int64) { i.highest = max(i.highest, run) }

// holding is which runs it holds, or nil when nobody knows.
func (i *identity) holding() *queue.Holding {
	if i.doubtful {
		return nil
	}
	return &queue.Holding{Runs: slices.Collect(maps.Keys(i.runs)), Recent: i.settled()}
}

// settled is the id up to which no insert under way can have leased anything.
func (i *identity) settled() int64 {
	settled := i.highest
	for _, floor := range i.inserting {
		settled = min(settled, floor)
	}
	return settled
}

// doubt notes that the answer to a statement that may have leased runs to the
// identity was lost.
func (p *PubSub) doubt(i *identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i.doubtful = true
}

// identity returns the one under which runs are leased now.
func (p *PubSub) identity() *identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// forget is told which runs have ended.
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

// identities returns all that are not forgotten yet; mu is held.
func (p *PubSub) identities() []*identity {
	return append(p.former[:len(p.former):len(p.former)], p.current)
}

// renew takes a new identity when the current one is in doubt, and gives back
// at once what it may have leased without knowing. claiming is held.
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

// retire ends former identities that hold nothing any more, and gives back what
// has turned up for the others.
func (p *PubSub) retire(ctx context.Context) error {
	p.mu.Lock()
	former := append([]*identity(nil), p.former...)
	p.mu.Unlock()
	for _, i := range former {
		p.mu.Lock()
		idle := i.idle()
		p.mu.Unlock()
		if idle || time.Since(i.asked) > p.config.DeadAfter { // the longer it is, the more there is to look through
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

// giveBackUnknown gives back the leases that the database knows of and this
// process does not, but for what an insert that is under way may just have
// leased.
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
	_, _, err = p.queue.EndUnlocked(ctx, unknown) // what is locked is for the next time
	if len(unknown) > 0 {
		signal(p.wake)
	}
	return err
}
