package pubsub

// Gathered is how many publishes wait for a statement to be written together.
func (p *PubSub) Gathered() int { return p.writer.count() }

// NothingWaits says whether no subscription has a backlog, as far as is known: an
// event is then handed over as it is published.
func (p *PubSub) NothingWaits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.backlog) == 0
}
