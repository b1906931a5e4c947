package pubsub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// This file claims due runs, from the free slots to the handlers' channels. wants
// computes how many runs of each handler there is room for. lease and claimEach claim
// them. compare notes which handlers may have a backlog. dispatch sends the runs down
// their subscriptions. slots.go counts the slots; handover.go reserves some of them for
// runs that a publish hands over without a claim.

// claimLoop leases due runs for the free slots of all subscriptions, when it is woken and
// after each PollInterval. After a publish in a caller's transaction it looks again after
// 1 ms and then less and less often, since only the caller knows when it commits.
func (p *PubSub) claimLoop(ctx context.Context) {
	health := outage.Outage{What: "claiming due runs", Log: p.config.Logger}
	pace := outage.Pace(5 * time.Second)
	wait := p.config.PollInterval
	for {
		more, asked, err := p.claim(ctx)
		if asked {
			health.Report(ctx, err)
		}
		if err == nil {
			p.claimed.Store(time.Now().UnixNano())
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

// claim leases runs for the free slots and delivers them. more means that there may be
// more due runs and free slots for them. asked means that it sent a statement.
//
// Slots that one handler cannot use go to handlers that MaxConcurrency or shared slots
// had cut short.
func (p *PubSub) claim(ctx context.Context) (more, asked bool, err error) {
	served := map[store.Subscription]bool{} // handlers whose due runs are all leased
	for {
		wants, stoodBack, noted := p.wants(served)
		if len(wants) == 0 {
			return more, asked, nil
		}
		asked = true
		claimed, err := p.lease(ctx, wants)
		var full, short []store.Subscription
		if err == nil {
			full, short = p.compare(wants, claimed, noted)
		}
		p.dispatch(claimed)
		if err != nil {
			return false, true, err
		}
		more = more || p.anyFree(full)
		if !stoodBack || len(short) == 0 {
			return more, true, nil
		}
		for _, key := range short {
			served[key] = true
		}
	}
}

// lease claims runs, under a new identity if the last answer was lost.
func (p *PubSub) lease(ctx context.Context, wants []queue.Want) ([]*queue.Claimed, error) {
	if err := p.claiming.lock(ctx); err != nil {
		return nil, err
	}
	defer p.claiming.unlock()
	if err := p.renew(ctx); err != nil {
		return nil, err
	}
	claimed, err := p.claimAs(ctx, wants)
	if err == nil {
		p.accepted(wants...)
	}
	if others := p.activeSubscriptions() > 1; !others || sqldb.Transient(err) || !divisible(err) {
		return claimed, err
	}
	return p.claimEach(ctx, wants)
}

// claimEach claims for each subscription alone. So a run that the database refuses to
// lease, for example because of a trigger, does not stop other subscriptions. claimEach
// returns an error only if it claimed for all active subscriptions and all failed.
func (p *PubSub) claimEach(ctx context.Context, wants []queue.Want) (claimed []*queue.Claimed, err error) {
	var errs []error
	for _, w := range wants {
		some, err := p.claimAs(ctx, []queue.Want{w})
		claimed = append(claimed, some...)
		if err == nil {
			p.accepted(w)
			continue
		}
		errs = append(errs, fmt.Errorf("handler %q on topic %q: %w", w.Handler, w.Topic, err))
		if key := (store.Subscription{Topic: w.Topic, Handler: w.Handler}); !p.refused[key] {
			p.refused[key] = true
			p.config.Logger.Warn("the database refuses to lease runs of a handler; trying again until it does, and going on with others",
				"handler", w.Handler, "topic", w.Topic, "error", err)
		}
	}
	if len(errs) >= p.activeSubscriptions() {
		return nil, errors.Join(errs...)
	}
	return claimed, nil
}

func (p *PubSub) activeSubscriptions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.active)
}

// accepted notes that these claims work.
func (p *PubSub) accepted(wants ...queue.Want) {
	for _, w := range wants {
		if key := (store.Subscription{Topic: w.Topic, Handler: w.Handler}); p.refused[key] {
			delete(p.refused, key)
			p.config.Logger.Info("the database leases runs of a handler again", "handler", w.Handler, "topic", w.Topic)
		}
	}
}

// claimAs claims as the current identity, which must not be in doubt.
func (p *PubSub) claimAs(ctx context.Context, wants []queue.Want) ([]*queue.Claimed, error) {
	p.mu.Lock()
	i := p.current
	by := queue.Claimant{Instance: i.id, Claims: i.claims, Held: slices.Collect(maps.Keys(i.runs))}
	p.mu.Unlock()
	claimed, err := p.queue.Claim(ctx, by, wants)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil && !sqldb.Refused(err):
		i.doubtful = true
	case len(claimed) > 0:
		i.claims++
	}
	for _, c := range claimed {
		i.add(c.Run.ID)
	}
	return claimed, err
}

// wants returns one Want for each subscription with free slots, except those in served.
// If a subscription has none, the next free slot wakes the claimer. stoodBack means that
// a subscription wants less than it has free slots, in favour of topics that share its
// slots or of other handlers in the process. noted is the number of backlog notes so far.
func (p *PubSub) wants(served map[store.Subscription]bool) (wants []queue.Want, stoodBack bool, noted int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	budget := p.config.MaxConcurrency - p.running
	waiting := 0
	asked := map[*slots]*asking{}
	for _, key := range p.byPriority() {
		if served[key] {
			continue
		}
		waiting++
		n, busy := 0, 0
		var own []*asking
		for _, s := range p.active[key] {
			a := asked[s.slots]
			if a == nil {
				a = s.slots.asking(served)
				asked[s.slots] = a
			}
			if !slices.Contains(own, a) {
				own = append(own, a)
				n += a.share()
				busy += s.slots.all - a.free
				stoodBack = stoodBack || a.share() < s.slots.free
			}
		}
		if p.config.MaxConcurrency > 0 {
			most := n
			n = min(n, max(budget, 0))
			if n == 0 && busy == 0 {
				n = 1
			}
			budget -= n
			stoodBack = stoodBack || n < most
		}
		left := n
		for _, a := range own {
			left -= a.take(left)
		}
		if n > 0 {
			wants = append(wants, queue.Want{Topic: key.Topic, Handler: key.Handler, N: n})
		}
	}
	p.leftBehind = len(wants) < waiting
	return wants, stoodBack, p.notes
}

// byPriority returns the subscriptions served here, by priority, and in random order
// within a priority. mu must be held.
func (p *PubSub) byPriority() []store.Subscription {
	keys := slices.Collect(maps.Keys(p.active))
	if p.config.MaxConcurrency > 0 {
		slices.SortStableFunc(keys, func(a, b store.Subscription) int { return cmp.Compare(p.priority(b), p.priority(a)) })
	}
	return keys
}

// priority returns the priority of a subscription served here, otherwise 0. mu must be
// held.
func (p *PubSub) priority(key store.Subscription) int {
	if subs := p.active[key]; len(subs) > 0 {
		return subs[0].policy.Priority
	}
	return 0
}

// compare returns which wants were met in full, so that more runs may be due, and which
// came back short. The short ones have no backlog, unless one was noted during the claim.
func (p *PubSub) compare(wants []queue.Want, claimed []*queue.Claimed, noted int) (full, short []store.Subscription) {
	got := make(map[store.Subscription]int, len(wants))
	for _, c := range claimed {
		got[c.Subscription()]++
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range wants {
		key := store.Subscription{Topic: w.Topic, Handler: w.Handler}
		if got[key] < w.N {
			if p.backlog[key] <= noted {
				delete(p.backlog, key)
			}
			short = append(short, key)
			continue
		}
		p.note(key)
		p.leftBehind = true
		full = append(full, key)
	}
	return full, short
}

// anyFree reports whether one of the subscriptions may begin another run.
func (p *PubSub) anyFree(keys []store.Subscription) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range keys {
		if slices.ContainsFunc(p.active[key], p.mayBegin) {
			return true
		}
	}
	return false
}

// note notes that a subscription may have a backlog. mu must be held.
func (p *PubSub) note(key store.Subscription) {
	p.notes++
	p.backlog[key] = p.notes
}

// dispatch gives claimed runs to subscriptions with a free slot, by priority. A run
// without a slot is due again: during the claim, a handed-over run took its slot, or a
// handler of a higher priority began to wait for it.
func (p *PubSub) dispatch(claimed []*queue.Claimed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.config.MaxConcurrency > 0 {
		slices.SortStableFunc(claimed, func(a, b *queue.Claimed) int {
			return cmp.Compare(p.priority(b.Subscription()), p.priority(a.Subscription()))
		})
	}
	for _, c := range claimed {
		subs := p.active[c.Subscription()]
		i := slices.IndexFunc(subs, func(s *subscription) bool { return p.take(s, 1) == 1 })
		if i < 0 {
			p.end(queue.Outcome{Lease: queue.LeaseOf(c.Run), Status: store.Pending, Refund: true})
			continue
		}
		subs[i].deliver(c)
	}
}

// end hands an outcome to the finisher.
func (p *PubSub) end(o queue.Outcome) { p.finisher.add(o) }

// ended takes note of the outcomes that the finisher has written. It wakes the claimer
// when a run is due again, unless PollInterval is shorter.
func (p *PubSub) ended(outcomes []queue.Outcome) {
	p.forget(outcomes)
	for _, o := range outcomes {
		if o.Status == store.Pending && o.Delay < p.config.PollInterval {
			time.AfterFunc(o.Delay+time.Millisecond, func() { signal(p.wake) })
		}
	}
}
