package pubsub

import "github.com/reprise-bus/reprise/store"

// Slots: how many runs this process works on at once, by subscription and in
// all. pubsub.mu is held by the callers of what does not lock it.

// may says whether the subscription may begin another run. One without a run
// may always begin one. Otherwise the process needs a free slot that no handler
// of a higher priority waits for.
func (p *PubSub) may(s *subscription) bool {
	if s.free == 0 {
		return false
	}
	idle := s.free == s.slots
	return p.config.MaxConcurrency == 0 || idle || p.running+p.kept(s.key) < p.config.MaxConcurrency
}

// kept is how many slots of the process are kept for handlers of a higher
// priority: those with a backlog, as far as their own slots go.
func (p *PubSub) kept(key store.Subscription) int {
	n := 0
	for other := range p.backlog {
		if p.priority(other) <= p.priority(key) {
			continue
		}
		for _, s := range p.active[other] {
			n += s.free
		}
	}
	return n
}

// take takes at most n slots of a subscription and returns how many.
func (p *PubSub) take(s *subscription, n int) int {
	taken := 0
	for taken < n && p.may(s) {
		s.free--
		p.running++
		taken++
	}
	return taken
}

// free gives a slot back.
func (p *PubSub) free(s *subscription) {
	s.free++
	p.running--
}

// release gives a slot back and wakes the claimer if there may be due runs for
// it.
func (p *PubSub) release(s *subscription) {
	p.mu.Lock()
	p.free(s)
	hungry := p.hungry
	p.mu.Unlock()
	if hungry {
		signal(p.wake)
	}
}
