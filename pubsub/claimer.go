package pubsub

import (
	"context"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// claimLoop leases due runs for the free slots of all subscriptions, when it
// is woken and once a PollInterval. After a publish in a caller's transaction
// it looks again soon, and then ever more rarely: the commit is the caller's.
func (p *PubSub) claimLoop(ctx context.Context) {
	health := outage{what: "claiming due runs", log: p.config.Logger}
	pace := newBackoff()
	wait := p.config.PollInterval
	for {
		more, err := p.claim(ctx)
		health.report(ctx, err)
		if err == nil {
			pace.Reset()
			if more {
				continue
			}
		}
		timer := time.NewTimer(wait)
		if err != nil {
			timer.Reset(pace.NextBackOff())
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.nudge:
			wait = time.Millisecond
		case <-p.wake:
		case <-timer.C:
			wait = min(2*wait, p.config.PollInterval)
		}
		timer.Stop()
	}
}

// claim leases runs for the free slots there are and passes them on. It says
// whether there may be more due runs and free slots for them.
func (p *PubSub) claim(ctx context.Context) (more bool, err error) {
	wants, noted := p.wants()
	if len(wants) == 0 {
		return false, nil
	}
	claimed, err := p.lease(ctx, wants)
	for _, c := range claimed {
		p.dispatch(c)
	}
	if err != nil {
		return false, err
	}
	return p.leftBehind(wants, claimed, noted), nil
}

// lease claims. When the database may have leased runs to this instance that
// it does not know of, since an answer was lost, those are given back first.
func (p *PubSub) lease(ctx context.Context, wants []store.Want) ([]store.Claimed, error) {
	p.claiming.Lock()
	defer p.claiming.Unlock()
	if err := p.settle(ctx); err != nil {
		return nil, err
	}
	claimed, err := p.store.Claim(ctx, p.instance, wants)
	if err != nil {
		p.unsure.Store(true)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range claimed {
		p.held.add(c.Lease.RunID)
	}
	return claimed, err
}

// wants is one for each subscription with free slots. Without any, a slot that
// becomes free wakes the claimer. noted says up to when backlogs were noted.
func (p *PubSub) wants() (wants []store.Want, noted int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	budget := p.config.MaxConcurrency - p.running
	for key, subs := range p.active { // in random order: nobody is always first
		n, busy := 0, 0
		for _, s := range subs {
			n += s.free
			busy += p.config.Concurrency - s.free
		}
		if p.config.MaxConcurrency > 0 {
			n = min(n, max(budget, 0))
			if n == 0 && busy == 0 {
				n = 1
			}
			budget -= n
		}
		if n > 0 {
			wants = append(wants, store.Want{Topic: key.Topic, Handler: key.Handler, N: n})
		}
	}
	p.hungry = len(wants) < len(p.active)
	return wants, p.notes
}

// leftBehind notes which wants were met in full, so that there may be more due
// runs, and says whether one of them has free slots. One that came back short
// has no backlog, unless one was noted while the claim was under way.
func (p *PubSub) leftBehind(wants []store.Want, claimed []store.Claimed, noted int) bool {
	got := make(map[store.Subscription]int, len(wants))
	for _, c := range claimed {
		got[store.Subscription{Topic: c.Event.Topic, Handler: c.Handler}]++
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	free := false
	for _, w := range wants {
		key := store.Subscription{Topic: w.Topic, Handler: w.Handler}
		if got[key] < w.N {
			if p.backlog[key] <= noted {
				delete(p.backlog, key)
			}
			continue
		}
		p.note(key)
		p.hungry = true
		for _, s := range p.active[key] {
			free = free || p.may(s)
		}
	}
	return free
}

// note says that a subscription may have a backlog; mu is held.
func (p *PubSub) note(key store.Subscription) {
	p.notes++
	p.backlog[key] = p.notes
}

// dispatch gives a claimed run to a subscription with a free slot; when the
// last one has gone meanwhile, to a run that was handed over, it is due again.
func (p *PubSub) dispatch(c store.Claimed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.active[store.Subscription{Topic: c.Event.Topic, Handler: c.Handler}] {
		if p.take(s, 1) == 1 {
			s.deliver(c)
			return
		}
	}
	p.end(store.Outcome{Lease: c.Lease, Status: store.Pending, Refund: true})
}

// end hands an outcome to the finisher, and wakes the claimer when a run that
// is to be tried again is due.
func (p *PubSub) end(o store.Outcome) {
	p.finisher.add(o)
	if o.Status == store.Pending {
		time.AfterFunc(o.Delay+5*time.Millisecond, func() { signal(p.wake) })
	}
}
