package pubsub

import (
	"context"
	"log/slog"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"

	"github.com/reprise-bus/reprise/store"
)

// knownEvents are those of a publish for which nothing was written, since the topic
// has them already.
type knownEvents map[store.EventID]bool

// metadataOfKnown returns the metadata that the database has of events.
type metadataOfKnown func(ctx context.Context, q store.Queryer, ids []store.EventID) (map[store.EventID]map[string]string, error)

// repeatsAmong looks at the events that an insert of unique events did not write:
// it returns those that repeat the first event of their id, each under an id of its
// own, and those that are that event.
func repeatsAmong(ctx context.Context, db store.Queryer, events []store.Event, fresh []store.EventID, look metadataOfKnown) ([]store.Event, knownEvents, error) {
	known := make(knownEvents, len(events)-len(fresh))
	for i := range events {
		known[events[i].EventID()] = true
	}
	for _, id := range fresh {
		delete(known, id)
	}
	ids := make([]store.EventID, 0, len(known))
	for id := range known {
		ids = append(ids, id)
	}
	metadata, err := look(ctx, db, ids)
	if err != nil {
		return nil, nil, err
	}
	var repeats []store.Event
	for i := range events {
		id := events[i].EventID()
		first, there := metadata[id]
		if known[id] && there && events[i].Repeats(first) {
			delete(known, id)
			repeats = append(repeats, events[i].Repeat())
		}
	}
	repeats, err = store.Unique(repeats)
	return repeats, known, err
}

// insertRepeats follows an insert of unique events that has written those of in: of
// the others it inserts those that repeat an event. Their runs are due.
func (p *PubSub) insertRepeats(ctx context.Context, db wsql.ContextExecutor, events []store.Event, in store.Inserted) (more store.Inserted, known knownEvents, err error) {
	if len(in.IDs) == len(events) {
		return more, nil, nil
	}
	repeats, known, err := repeatsAmong(ctx, db, events, in.IDs, p.store.KnownMetadata)
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

// addMissing adds the events that are not among those that were written.
func (k knownEvents) addMissing(events []store.Event, fresh []store.EventID) {
	for i := range events {
		k[events[i].EventID()] = true
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
		if !k[e.EventID()] && !k[(&store.Event{Topic: e.Topic, ID: e.Repeat().ID}).EventID()] {
			continue
		}
		if n++; n == 1 {
			first = e.EventID()
		}
	}
	return n, first
}

// sayKnown logs, once for a publish, that some of its events will be handled by
// nobody because of it.
func sayKnown(ctx context.Context, log *slog.Logger, events []store.Event, known knownEvents) {
	n, first := known.of(events)
	if n == 0 {
		return
	}
	log.InfoContext(ctx, "published again: the topic has the event already, with this payload and metadata, and no run is created; to have it handled once more, replay its runs, or publish it under another id",
		"topic", first.Topic, "event", first.ID, "known", n, "published", len(events))
}
