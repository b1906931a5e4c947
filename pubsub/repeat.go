package pubsub

import (
	"context"
	"log/slog"
	"slices"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// knownEvents holds the events of a publish for which nothing was written, because the
// topic has them already. The key is the topic and the id that the event has as a repeat,
// which is made of its whole content.
type knownEvents map[store.EventID]bool

func (k knownEvents) add(e *store.Event) { k[store.EventID{Topic: e.Topic, ID: e.Repeat().ID}] = true }

// metadataOfKnown returns the metadata of events as the database has it.
type metadataOfKnown func(ctx context.Context, q sqldb.Queryer, ids []store.EventID) (map[store.EventID]map[string]string, error)

// repeatsAmong looks at the events that an insert of unique events did not write, and at
// the others with the same ids, which the insert left out. It returns the events that
// repeat the database's event under their id, each with an id of its own, and the events
// that are the database's event.
func repeatsAmong(ctx context.Context, db sqldb.Queryer, events, others []store.Event, fresh []store.EventID, look metadataOfKnown) ([]store.Event, knownEvents, error) {
	written := make(map[store.EventID]bool, len(fresh))
	for _, id := range fresh {
		written[id] = true
	}
	left := slices.Clone(others)
	for i := range events {
		if !written[events[i].EventID()] {
			left = append(left, events[i])
		}
	}
	asked := make(map[store.EventID]bool, len(left))
	var ids []store.EventID
	for i := range left {
		if id := left[i].EventID(); !asked[id] {
			asked[id] = true
			ids = append(ids, id)
		}
	}
	metadata, err := look(ctx, db, ids)
	if err != nil {
		return nil, nil, err
	}
	var repeats []store.Event
	known := make(knownEvents, len(left))
	for i := range left {
		if first, there := metadata[left[i].EventID()]; there && left[i].Repeats(first) {
			repeats = append(repeats, left[i].Repeat())
		} else {
			known.add(&left[i])
		}
	}
	repeats, _, err = queue.Unique(repeats)
	return repeats, known, err
}

// insertRepeats follows an insert of unique events, of which it wrote those in in. Of the
// rest, and of the others with the same ids, it inserts those that repeat an event. Their
// runs are due.
func (p *PubSub) insertRepeats(ctx context.Context, db sqldb.Queryer, events, others []store.Event, in queue.Inserted) (more queue.Inserted, known knownEvents, err error) {
	if len(in.IDs) == len(events) && len(others) == 0 {
		return more, nil, nil
	}
	repeats, known, err := repeatsAmong(ctx, db, events, others, in.IDs, p.queue.KnownMetadata)
	if err != nil || len(repeats) == 0 {
		return more, known, err
	}
	if more, err = p.insert(ctx, db, repeats, nil); err != nil {
		return more, nil, err
	}
	p.heard(repeats, more)
	known.addMissing(repeats, more.IDs)
	return more, known, nil
}

// addMissing adds the repeats that were not written.
func (k knownEvents) addMissing(repeats []store.Event, fresh []store.EventID) {
	for i := range repeats {
		k[repeats[i].EventID()] = true
	}
	for _, id := range fresh {
		delete(k, id)
	}
}

// of returns how many events of one publish are known, and the first of them.
func (k knownEvents) of(events []store.Event) (n int, first store.EventID) {
	if len(k) == 0 {
		return 0, first
	}
	for i := range events {
		e := &events[i]
		if !k[store.EventID{Topic: e.Topic, ID: e.Repeat().ID}] {
			continue
		}
		if n++; n == 1 {
			first = e.EventID()
		}
	}
	return n, first
}

// sayKnown logs, once for a publish, that some of its events were known and got no run.
func sayKnown(ctx context.Context, log *slog.Logger, events []store.Event, known knownEvents) {
	n, first := known.of(events)
	if n == 0 {
		return
	}
	log.InfoContext(ctx, "published again: the topic has the event already, and no run is created; to have it handled once more, replay its runs, or publish it under another id",
		"topic", first.Topic, "event", first.ID, "known", n, "published", len(events))
}
