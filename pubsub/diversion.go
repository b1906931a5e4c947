package pubsub

import (
	"context"
	"slices"
	"time"
)

// diversion is a topic whose events this process writes into the outbox instead of
// sending them, because earlier events of the topic are there and must not be overtaken.
type diversion struct {
	writing int           // publishes under way
	entered int           // publishes so far
	barrier chan struct{} // closed when publishes may go on; nil: they need not wait
}

// How a diversion ends while events are published: when at most nearlySent events are
// left to send, publishes wait until these are sent, standstill at most.
const (
	nearlySent = 100
	standstill = 50 * time.Millisecond
)

// enter returns nil for a topic whose events are sent directly. For a diverted topic it
// returns a function to call when the event is in the outbox. It returns an error if ctx
// ends first.
func (o *Outbox) enter(ctx context.Context, topic string) (written func(), err error) {
	o.recall(ctx, topic)
	for {
		o.mu.Lock()
		d := o.diversion[topic]
		if d == nil {
			o.mu.Unlock()
			return nil, nil
		}
		barrier := d.barrier
		if barrier == nil {
			defer o.mu.Unlock()
			return o.join(d), nil
		}
		o.mu.Unlock()
		select {
		case <-barrier:
		case <-ctx.Done():
			return nil, nothingWritten(context.Cause(ctx))
		}
	}
}

// recall diverts a topic if an earlier process left events of it in the outbox. It asks
// once. While the database does not answer, events are sent directly.
func (o *Outbox) recall(ctx context.Context, topic string) {
	o.mu.Lock()
	known := o.known[topic]
	o.mu.Unlock()
	if known {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, o.config.SendTimeout)
	defer cancel()
	waiting, err := o.pubsub.queue.Waiting(ctx, topic)
	if waiting {
		o.divert(topic)()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.known[topic] = err == nil
}

// divert diverts a topic of mode Direct: while a publish writes into the outbox, and then
// until nothing of the topic is left to send.
func (o *Outbox) divert(topic string) (written func()) {
	if o.Mode(topic) != Direct {
		return func() {}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.diversion[topic]
	if d == nil {
		d = &diversion{}
		o.diversion[topic] = d
	}
	if !o.watching && !o.closed {
		o.watching = true
		o.work.Go(o.watch)
	}
	return o.join(d)
}

// join counts a publish that writes. mu must be held.
func (o *Outbox) join(d *diversion) (written func()) {
	d.writing++
	d.entered++
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		d.writing--
	}
}

// watch ends diversions that are over, until there are none.
func (o *Outbox) watch() {
	const first, most = 10 * time.Millisecond, time.Second
	for wait := first; ; wait = min(2*wait, most) {
		if !o.pause(wait) {
			return
		}
		for _, topic := range o.divertedTopics() {
			o.reopen(topic)
		}
		o.mu.Lock()
		o.watching = len(o.diversion) > 0
		watching := o.watching
		o.mu.Unlock()
		if !watching {
			return
		}
	}
}

// pause waits for the given time, or until something has been sent. It returns false when
// the Outbox is closing.
func (o *Outbox) pause(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-o.workCtx.Done():
		return false
	case <-o.settled:
	case <-timer.C:
	}
	return true
}

func (o *Outbox) divertedTopics() (topics []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for topic := range o.diversion {
		topics = append(topics, topic)
	}
	slices.Sort(topics)
	return topics
}

// reopen ends the diversion of a topic when everything is sent. When that moment is near
// and the broker works, publishes wait for it.
func (o *Outbox) reopen(topic string) {
	n, failing, err := o.pubsub.queue.Backlog(o.workCtx, topic, nearlySent+1)
	if err != nil || failing || n > nearlySent {
		return
	}
	o.bar(topic)
	defer o.unbar(topic)
	for until := time.Now().Add(standstill); time.Now().Before(until); {
		if o.endDiversion(topic) || !o.pause(time.Millisecond) {
			return
		}
	}
}

// bar makes publishes of a diverted topic wait.
func (o *Outbox) bar(topic string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.diversion[topic].barrier = make(chan struct{})
}

// unbar lets them continue.
func (o *Outbox) unbar(topic string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d := o.diversion[topic]; d != nil && d.barrier != nil { // another diversion may have begun
		close(d.barrier)
		d.barrier = nil
	}
}

// endDiversion ends the diversion if nothing of the topic is left to send.
func (o *Outbox) endDiversion(topic string) bool {
	o.mu.Lock()
	d := o.diversion[topic]
	writing, entered := d.writing, d.entered
	o.mu.Unlock()
	if writing > 0 {
		return false
	}
	waiting, err := o.pubsub.queue.Waiting(o.workCtx, topic)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil || waiting || d.entered > entered { // the last event may not have been seen
		return false
	}
	close(d.barrier)
	delete(o.diversion, topic)
	return true
}
