package pubsub

import (
	"bytes"
	"maps"
	"slices"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// handover is a set of slots reserved for runs that a publish is about to create. The
// insert leases the runs, and after the commit they are delivered in memory. Every
// handover must be delivered or cancelled. Where an insert cannot lease, a handover has
// no slots and only notes what becomes due.
type handover struct {
	pubsub  *PubSub
	leaser  *identity                              // identity under which the insert leases
	slots   map[store.Subscription][]*subscription // one entry for each slot
	want    []queue.Want
	short   []store.Subscription // subscriptions with fewer free slots than events to come
	claimed []*queue.Claimed
}

// reserve takes free slots of the subscriptions here, one for each event to come. It
// takes none where a backlog waits for the slots: older runs come first.
func (p *PubSub) reserve(events []store.Event) *handover {
	coming := map[string]int{}
	for _, e := range events {
		coming[e.Topic]++
	}
	return p.reserveFor(func(key store.Subscription) int { return coming[key.Topic] })
}

// reserveFor takes free slots for as many events as coming returns for each subscription.
// It returns nil if the PubSub is closed.
func (p *PubSub) reserveFor(coming func(key store.Subscription) int) *handover {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	h := &handover{pubsub: p, slots: map[store.Subscription][]*subscription{}}
	for key, subs := range p.active {
		n := coming(key)
		if n == 0 {
			continue
		}
		taken := 0
		if p.queue.LeasesOnInsert() && !p.awaited(subs) {
			taken = h.take(key, subs, n)
		}
		if taken < n {
			p.note(key)
			h.short = append(h.short, key)
		}
	}
	p.handovers.Add(1)
	return h
}

// noteDue notes that runs of the events have become due without a handover.
func (p *PubSub) noteDue(events []store.Event, in queue.Inserted) {
	if in.Due == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.active {
		if slices.ContainsFunc(events, func(e store.Event) bool { return e.Topic == key.Topic }) {
			p.note(key)
		}
	}
}

// take reserves at most n slots of a handler. pubsub.mu must be held.
func (h *handover) take(key store.Subscription, subs []*subscription, n int) int {
	var slots []*subscription
	for _, s := range subs {
		for range h.pubsub.take(s, n-len(slots)) {
			slots = append(slots, s)
		}
	}
	if len(slots) > 0 {
		h.slots[key] = slots
		h.want = append(h.want, queue.Want{Topic: key.Topic, Handler: key.Handler, N: len(slots)})
	}
	return len(slots)
}

func (h *handover) wanted() bool { return h != nil && len(h.want) > 0 }

// begin is called before the insert, and inserted after it. In between, the instance may
// hold more runs than it knows.
func (h *handover) begin() {
	if h.wanted() {
		h.pubsub.mu.Lock()
		defer h.pubsub.mu.Unlock()
		h.leaser = h.pubsub.current
		h.leaser.begin(h)
	}
}

func (h *handover) inserted() {
	if h.wanted() {
		h.pubsub.mu.Lock()
		defer h.pubsub.mu.Unlock()
		delete(h.leaser.inserting, h)
	}
}

func (h *handover) lease() queue.LeaseOnInsert {
	if !h.wanted() {
		return queue.LeaseOnInsert{}
	}
	return queue.LeaseOnInsert{Instance: h.leaser.id, Wants: h.want}
}

// leased notes the runs that the statement leased, before its commit is known. It takes
// over the events: the first handler of each gets the event itself, the others a copy.
func (h *handover) leased(leased []queue.LeasedRun, events []store.Event) {
	if len(leased) == 0 {
		return
	}
	given := make([]bool, len(events))
	h.claimed = make([]*queue.Claimed, len(leased))
	for i, l := range leased {
		e := events[l.Event]
		if given[l.Event] {
			e.Payload, e.Metadata = bytes.Clone(e.Payload), maps.Clone(e.Metadata)
		}
		given[l.Event] = true
		h.claimed[i] = &queue.Claimed{
			Run: store.Run{
				ID: l.RunID, EventID: e.ID, Topic: e.Topic, Handler: l.Handler, Status: store.Pending,
				Attempt: 1, Tries: 1, Key: e.Key, Instance: h.leaser.id, StartedAt: l.StartedAt, PublishedAt: l.PublishedAt,
			},
			Event: e,
		}
	}
	h.pubsub.mu.Lock()
	defer h.pubsub.mu.Unlock()
	for _, l := range leased {
		h.leaser.add(l.RunID)
	}
}

// deliver is called after the commit. A run whose subscription has closed meanwhile is
// due again.
func (h *handover) deliver() {
	if h == nil {
		return
	}
	defer h.pubsub.handovers.Done()
	h.pubsub.mu.Lock()
	defer h.pubsub.mu.Unlock()
	for _, c := range h.claimed {
		key := c.Subscription()
		slots := h.slots[key]
		s := slots[len(slots)-1]
		h.slots[key] = slots[:len(slots)-1]
		if s.inactive {
			h.pubsub.end(queue.Outcome{Lease: queue.LeaseOf(c.Run), Status: store.Pending, Refund: true})
			continue
		}
		s.deliver(c)
	}
	for _, key := range h.short { // noted again, since a claim under way may not have seen the due runs
		if len(h.pubsub.active[key]) > 0 {
			h.pubsub.note(key)
		}
	}
	h.giveBack()
}

// cancel is called when nothing was committed, or when the result is unknown.
func (h *handover) cancel() {
	if h == nil {
		return
	}
	defer h.pubsub.handovers.Done()
	h.pubsub.mu.Lock()
	defer h.pubsub.mu.Unlock()
	for _, c := range h.claimed {
		h.leaser.remove(c.Run.ID)
	}
	h.giveBack()
}

// giveBack frees the slots that got no run. pubsub.mu must be held.
func (h *handover) giveBack() {
	for _, slots := range h.slots {
		for _, s := range slots {
			h.pubsub.free(s)
		}
	}
	if h.pubsub.leftBehind {
		signal(h.pubsub.wake)
	}
}
