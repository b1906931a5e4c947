package pubsub

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// unheard logs one warning for each topic on which this process publishes and that has no
// subscription. Safe for concurrent use.
type unheard struct {
	log *slog.Logger

	mu     sync.Mutex
	topics map[string]bool // by topic: it had a subscription when last checked
}

// maxTopics is how many topics are remembered. Further topics get no warning.
const maxTopics = 10_000

func newUnheard(log *slog.Logger) *unheard {
	return &unheard{log: log, topics: map[string]bool{}}
}

// note stores whether a topic has a subscription now. It logs the first time without one,
// and the next time after there was one.
func (u *unheard) note(topic string, subscribed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	was, known := u.topics[topic]
	if known && was == subscribed || !known && len(u.topics) >= maxTopics {
		return
	}
	u.topics[topic] = subscribed
	if !subscribed {
		u.log.Warn("nobody is subscribed to the topic of an event or a command that was published: no handler will get it; "+
			"register the handler before the first one, or with Policy.From: handlers.Beginning; said once for each topic", "topic", topic)
	}
}

// unknown returns the topics about which nothing is known.
func (u *unheard) unknown(topics []string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.topics) >= maxTopics {
		return nil
	}
	return slices.DeleteFunc(topics, func(topic string) bool { _, known := u.topics[topic]; return known })
}

// heard notes what an insert says about subscriptions.
func (p *PubSub) heard(events []store.Event, inserted queue.Inserted) {
	for _, topic := range inserted.Unheard {
		p.unheard.note(topic, false)
	}
	if first := events[0].Topic; len(inserted.IDs) > 0 && len(inserted.Unheard) == 0 && !severalTopics(events) {
		p.unheard.note(first, true)
	}
}

// heardAll is heard for a statement of this process's own. If the statement had several
// topics and created runs, it is unclear for which topics. Then heardAll asks the
// database about topics that are new to this process.
func (p *PubSub) heardAll(ctx context.Context, events []store.Event, inserted queue.Inserted) {
	p.heard(events, inserted)
	if len(inserted.IDs) == 0 || len(inserted.Unheard) > 0 || !severalTopics(events) || !p.queue.LeasesOnInsert() {
		return
	}
	var topics []string
	for _, e := range events {
		if !slices.Contains(topics, e.Topic) {
			topics = append(topics, e.Topic)
		}
	}
	unknown := p.unheard.unknown(topics)
	if len(unknown) == 0 {
		return
	}
	subscriptions, err := p.store.SubscriptionKeys(ctx)
	if err != nil {
		return // the next publish asks again
	}
	subscribed := map[string]bool{}
	for sub := range subscriptions {
		subscribed[sub.Topic] = true
	}
	for _, topic := range unknown {
		p.unheard.note(topic, subscribed[topic])
	}
}

func severalTopics(events []store.Event) bool {
	return slices.ContainsFunc(events[1:], func(e store.Event) bool { return e.Topic != events[0].Topic })
}
