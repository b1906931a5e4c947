package pubsub

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/store"
)

// This file sends the outbox. One process at a time is the relay (look, leads,
// maySucceed). It sends each topic by itself (sendTopic), in batches, and each key in
// order (lanesOf). It remembers which messages the broker has taken until the database
// knows (endings), so that a refused UPDATE sends nothing twice.

const (
	relayBatch = 500             // messages read at once
	relayLanes = 64              // messages sent at once
	maxPause   = 2 * time.Second // longest wait before a broker that was away is tried again
)

// Run sends the messages of the outbox until ctx ends, in one process at a time. It
// returns when no message is under way. When a sending process dies, another process
// sends its messages again after 23 s or eight times SendTimeout, whichever is longer.
func (o *Outbox) Run(ctx context.Context) {
	r := &relay{outbox: o, instance: o.pubsub.origin, ttl: max(15*time.Second, 5*o.config.SendTimeout), topics: map[string]bool{}}
	r.run(ctx)
}

// relay is the sending process, or one that would like to be.
type relay struct {
	outbox   *Outbox
	instance string
	ttl      time.Duration

	until   time.Time          // if leading: it leads at least until then; if not: it does not ask before
	lead    context.Context    // context of leading; nil: not leading
	resign  context.CancelFunc // ends lead
	silent  string             // another relay whose time is over
	since   time.Time          // when that was noticed
	sending sync.WaitGroup     // one goroutine for each topic
	mu      sync.Mutex
	topics  map[string]bool // topics with a goroutine
}

func (r *relay) run(ctx context.Context) {
	p := r.outbox.pubsub
	health := outage.Outage{What: "looking into the outbox", Log: p.config.Logger}
	for wait := p.config.PollInterval; ctx.Err() == nil; {
		health.Report(ctx, r.look(ctx))
		looked := time.Now()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-r.outbox.nudge: // soon, then less and less often: the caller commits
			wait = time.Millisecond
		case <-p.relay:
			select { // also finds what is written during the wait
			case <-ctx.Done():
			case <-time.After(quiet - time.Since(looked)):
			}
		case <-timer.C:
			wait = min(2*wait, p.config.PollInterval)
		}
		timer.Stop()
	}
	if r.lead == nil {
		return
	}
	r.resign()
	r.sending.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	_ = p.queue.ResignRelay(ctx, r.instance) // on an error the relay's time runs out by itself
}

// look becomes the relay if it can, and starts sending every waiting topic.
func (r *relay) look(ctx context.Context) error {
	leading, err := r.leads(ctx)
	if err != nil || !leading {
		return err
	}
	waiting, err := r.outbox.pubsub.queue.WaitingTopics(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, topic := range waiting {
		if !r.topics[topic] {
			r.topics[topic] = true
			r.sending.Go(func() { r.sendTopic(r.lead, topic) })
		}
	}
	return nil
}

// leads reports whether this process is the relay, and renews its time.
func (r *relay) leads(ctx context.Context) (bool, error) {
	now := time.Now()
	switch {
	case r.lead != nil && now.Before(r.until.Add(-2*r.ttl/3)):
		return true, nil
	case r.lead == nil && now.Before(r.until):
		return false, nil // asked a moment ago
	}
	if r.lead == nil {
		r.until = now.Add(r.outbox.pubsub.config.PollInterval)
		by, over, err := r.outbox.pubsub.store.LastRelay(ctx)
		if err != nil {
			return false, err
		}
		if by != "" && by != r.instance && !r.maySucceed(by, over, now) {
			return false, nil
		}
	}
	is, err := r.outbox.pubsub.queue.Relay(ctx, r.instance, r.ttl)
	switch {
	case is:
		r.until = now.Add(r.ttl)
		if r.lead == nil {
			r.lead, r.resign = context.WithCancel(context.WithoutCancel(ctx))
		}
		return true, nil
	case err != nil && r.lead != nil && now.Before(r.until.Add(-r.ttl/3)):
		return true, err // it still leads
	}
	if r.lead != nil {
		r.resign()
		r.sending.Wait()
		r.lead = nil
	}
	return false, err
}

// maySucceed reports whether another relay has been silent for half a ttl since this
// process noticed that its time was over. The other relay may have been suspended, with
// this process, the database or the whole machine, and would go on sending as this
// process begins.
func (r *relay) maySucceed(by string, over bool, now time.Time) bool {
	if !over || by != r.silent {
		r.silent, r.since = "", time.Time{}
		if over {
			r.silent, r.since = by, now
		}
		return false
	}
	return now.Sub(r.since) >= r.ttl/2
}

// sendTopic sends the PENDING messages of a topic until none is left or ctx ends.
func (r *relay) sendTopic(ctx context.Context, topic string) {
	p := r.outbox.pubsub
	health := outage.Outage{What: "sending what is in the outbox on topic " + topic, Log: p.config.Logger}
	pace := outage.Pace(maxPause)
	over := endings{}
	for {
		ended, err := r.sendBatch(ctx, topic, over)
		health.Report(ctx, err)
		switch {
		case ctx.Err() != nil || err == nil && ended == 0:
			r.mu.Lock()
			delete(r.topics, topic)
			r.mu.Unlock()
			signal(r.outbox.settled)
			if ctx.Err() == nil {
				signal(p.relay) // for messages written after the last look
			}
			return
		case err == nil || ended > 0 && errors.Is(err, errUnmarked):
			pace.Reset()
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(pace.NextBackOff()):
		}
	}
}

// endings holds the events, by their ids in the outbox, that the broker has taken or
// refused and that may not be marked so yet.
type endings map[int64]ending

type ending struct {
	operation int64 // a later operation sends the event again
	refused   error // nil: the event is sent
}

// errUnmarked lets other events go on: this process does not send an event again that it
// could not mark.
var errUnmarked = errors.New("what the broker has taken or refused cannot be marked so in the outbox: another transaction has locked it, or the database refuses it")

// sendBatch sends the oldest messages of a topic, those of one key in order, and marks
// the results. It returns how many messages the broker took or refused. Messages that it
// took or refused before and that are still PENDING are only marked again.
func (r *relay) sendBatch(ctx context.Context, topic string, over endings) (ended int, err error) {
	q := r.outbox.pubsub.queue
	batch, err := q.NextOutgoing(ctx, topic, relayBatch, maxBytes)
	if err != nil {
		return 0, err
	}
	before := over.keep(batch)
	if len(batch) == 0 {
		return 0, nil
	}
	// The first failure stops all lanes: each would wait for the same broker.
	going, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var (
		lanes  sync.WaitGroup
		mu     sync.Mutex // guards over, too
		failed store.Outgoing
		cause  error
	)
	for _, lane := range lanesOf(batch) {
		lanes.Go(func() {
			for _, m := range lane {
				mu.Lock()
				_, known := over[m.ID]
				mu.Unlock()
				if going.Err() != nil {
					return
				}
				if known {
					continue
				}
				// A message under way is waited for, even after a failure or when ctx has
				// ended.
				err := r.outbox.send(context.WithoutCancel(ctx), m.Event)
				refused := err != nil && r.outbox.refused(err)
				if refused {
					r.outbox.pubsub.config.Logger.Error("the broker refuses an event: it stays in the outbox",
						"topic", m.Event.Topic, "event", m.Event.ID, "outbox", m.ID, "error", err)
				}
				mu.Lock()
				switch {
				case err == nil || refused:
					over[m.ID] = ending{operation: m.OperationID, refused: err}
				case cause == nil:
					cause, failed = err, m
					stop(err)
				}
				mu.Unlock()
				if err != nil && !refused {
					return
				}
			}
		})
	}
	lanes.Wait()
	// ctx may have ended, but an unmarked message would be sent again.
	mark, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	ended = len(over) - before
	err = r.mark(mark, over)
	switch {
	case cause != nil:
		return ended, errors.Join(fmt.Errorf("event %q: %w", failed.Event.ID, cause), q.SendingFailed(mark, failed.ID, cause.Error()))
	case err == nil && before > 0:
		err = errUnmarked
	}
	return ended, err
}

// keep forgets messages that are no longer PENDING, and messages that an operation has
// sent again since. It returns how many are left.
func (e endings) keep(batch []store.Outgoing) int {
	if len(e) == 0 {
		return 0
	}
	kept := endings{}
	for _, m := range batch {
		if end, known := e[m.ID]; known && end.operation == m.OperationID {
			kept[m.ID] = end
		}
	}
	clear(e)
	maps.Copy(e, kept)
	return len(e)
}

// mark marks the results in the outbox. If the database refuses to mark the sent messages
// together, each is tried alone.
func (r *relay) mark(ctx context.Context, over endings) error {
	q := r.outbox.pubsub.queue
	var (
		sent []int64
		each alone
		errs []error
	)
	for id, end := range over {
		if end.refused == nil {
			sent = append(sent, id)
		} else if err := each.try(func() error { return q.RefusedByBroker(ctx, id, end.refused.Error()) }); err != nil {
			errs = append(errs, err)
		}
	}
	slices.Sort(sent) // same order in all processes
	err := q.Sent(ctx, sent)
	if err != nil && len(sent) > 1 && ctx.Err() == nil && divisible(err) {
		err = nil
		for _, id := range sent {
			if failed := each.try(func() error { return q.Sent(ctx, []int64{id}) }); failed != nil {
				err = failed
			}
		}
	}
	if err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		if divisible(err) {
			err = fmt.Errorf("%w: %w", errUnmarked, err)
		}
		return err
	}
	return nil
}

// lanesOf puts messages of one key into one lane, in order.
func lanesOf(batch []store.Outgoing) (lanes [relayLanes][]store.Outgoing) {
	for i, m := range batch {
		lane := i % relayLanes
		if m.Event.Key != "" {
			h := fnv.New32a()
			_, _ = h.Write([]byte(m.Event.Key)) // never fails
			lane = int(h.Sum32() % relayLanes)
		}
		lanes[lane] = append(lanes[lane], m)
	}
	return lanes
}
