package pubsub

// Gathered is how many publishes wait for a statement to be written together.
func (p *PubSub) Gathered() int { return p.writer.count() }
