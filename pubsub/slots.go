package pubsub

import (
	"slices"

	"github.com/reprise-bus/reprise/store"
)

// This file counts slots: how many runs this process works on at once, for each
// Subscriber and in all. Callers must hold pubsub.mu unless the function locks it.

// slots are the slots of one Subscriber. Its topics share them.
type slots struct {
	all, free int
	of        []*subscription // active subscriptions
}

// asking divides free slots among the topics that share them, so that one claim can look
// for runs of all.
type asking struct{ free, topics int } // what is left

// asking begins to divide the free slots among the topics that are not in served.
func (s *slots) asking(served map[store.Subscription]bool) *asking {
	var topics []store.Subscription
	for _, sub := range s.of {
		if !served[sub.key] && !slices.Contains(topics, sub.key) {
			topics = append(topics, sub.key)
		}
	}
	return &asking{free: s.free, topics: len(topics)}
}

// share returns how many slots the next topic may ask for.
func (a *asking) share() int { return (a.free + a.topics - 1) / a.topics }

// take gives the next topic its share, or n if that is less, and returns the number.
func (a *asking) take(n int) int {
	n = min(n, a.share())
	a.free -= n
	a.topics--
	return n
}

// mayBegin reports whether the subscription may begin another run. A Subscriber without a
// run may always begin one. Otherwise the process needs a free slot that no handler of a
// higher priority waits for.
func (p *PubSub) mayBegin(s *subscription) bool {
	if s.slots.free == 0 {
		return false
	}
	idle := s.slots.free == s.slots.all
	return p.config.MaxConcurrency == 0 || idle || p.running+p.kept(s.key) < p.config.MaxConcurrency
}

// kept returns how many slots of the process are kept for handlers of a higher priority
// that have a backlog, at most their own free slots.
func (p *PubSub) kept(key store.Subscription) int {
	n := 0
	var counted []*slots
	for other := range p.backlog {
		if p.priority(other) <= p.priority(key) {
			continue
		}
		for _, s := range p.active[other] {
			if !slices.Contains(counted, s.slots) {
				counted = append(counted, s.slots)
				n += s.slots.free
			}
		}
	}
	return n
}

// awaited reports whether a backlog waits for slots of the subscriptions: their own
// backlog, or one of another topic that shares the slots.
func (p *PubSub) awaited(subs []*subscription) bool {
	return slices.ContainsFunc(subs, func(s *subscription) bool {
		return slices.ContainsFunc(s.slots.of, func(sharing *subscription) bool {
			_, backlog := p.backlog[sharing.key]
			return backlog
		})
	})
}

// take takes at most n slots of a subscription and returns the number taken.
func (p *PubSub) take(s *subscription, n int) int {
	taken := 0
	for taken < n && p.mayBegin(s) {
		s.slots.free--
		p.running++
		taken++
	}
	return taken
}

// free gives a slot back.
func (p *PubSub) free(s *subscription) {
	s.slots.free++
	p.running--
}

// release gives a slot back and wakes the claimer if due runs may be waiting for it.
func (p *PubSub) release(s *subscription) {
	p.mu.Lock()
	p.free(s)
	hungry := p.leftBehind
	p.mu.Unlock()
	if hungry {
		signal(p.wake)
	}
}
