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
	pause := p.config.PollInterval
	for {
		more, err := p.claim(ctx)
		health.report(ctx, err)
		if err == nil {
			pace.Reset()
			if more {
				continue
			}
		}
		wait := pause
		if err != nil {
			wait = pace.NextBackOff()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.nudge:
			pause = time.Millisecond
		case <-p.wake:
		case <-timer.C:
			pause = min(2*pause, p.config.PollInterval)
		}
		timer.Stop()
	}
}

// claim leases runs for the free slots there are and passes them on. It says
// whether there may be more due runs and free slots for them.
func (p *PubSub) claim(ctx context.Context) (more bool, err error) {
	wants := p.wants()
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
	return p.leftBehind(wants, claimed), nil
}

// lease claims. When a claim failed, the database may have leased runs to this
// instance that it does not know of: before the next one, those are given back.
func (p *PubSub) lease(ctx context.Context, wants []store.Want) ([]store.Claimed, error) {
	p.leasing.Lock()
	defer p.leasing.Unlock()
	if p.held.unsure {
		if err := p.giveBackUnknown(ctx); err != nil {
			return nil, err
		}
	}
	claimed, err := p.store.Claim(ctx, p.instance, wants)
	p.held.unsure = err != nil
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range claimed {
		p.held.add(c.Lease.RunID)
	}
	return claimed, err
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

// wants is one for each subscription with free slots. Without any, a slot that
// becomes free wakes the claimer.
func (p *PubSub) wants() []store.Want {
	p.mu.Lock()
	defer p.mu.Unlock()
	var wants []store.Want
	for key, subs := range p.active {
		n := 0
		for _, s := range subs {
			n += s.free
		}
		if n > 0 {
			wants = append(wants, store.Want{Topic: key.Topic, Handler: key.Handler, N: n})
		}
	}
	p.hungry = len(wants) < len(p.active)
	return wants
}

// leftBehind says whether a want was met in full, so that there may be more.
func (p *PubSub) leftBehind(wants []store.Want, claimed []store.Claimed) bool {
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
			continue
		}
		p.hungry = true
		for _, s := range p.active[key] {
			free = free || s.free > 0
		}
	}
	return free
}

// dispatch gives a claimed run to a subscription with a free slot; when the
// last one has gone meanwhile, the run is due again.
func (p *PubSub) dispatch(c store.Claimed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.active[store.Subscription{Topic: c.Event.Topic, Handler: c.Handler}] {
		if s.free > 0 {
			s.free--
			s.deliver(c)
			return
		}
	}
	p.finisher.add(store.Outcome{Lease: c.Lease, Status: store.Pending, Refund: true})
}

// release gives a slot back.
func (p *PubSub) release(s *subscription) {
	p.mu.Lock()
	s.free++
	hungry := p.hungry
	p.mu.Unlock()
	if hungry {
		signal(p.wake)
	}
}
