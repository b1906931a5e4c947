package queue

import (
	"database/sql"
	"fmt"
	"slices"

	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

func (postgres) insert(db *sqldb.DB, events []store.Event, lease LeaseOnInsert, likelyNew bool) (string, []any) {
	statement, args := insertStatement(events, lease, likelyNew)
	return db.SQL(statement), args
}

func insertStatement(events []store.Event, lease LeaseOnInsert, likelyNew bool) (string, []any) {
	leasing := len(lease.Wants) > 0
	switch {
	case len(events) == 1 && likelyNew:
		return insertOneNewPostgres, oneEvent(events[0], lease)
	case len(events) == 1:
		return insertOneAnyPostgres, oneEvent(events[0], lease)
	case likelyNew && leasing:
		return insertNewLeasedPostgres, append(arrays(events), wantArgs(lease, lastPlaces(events, lease.Wants))...)
	case likelyNew:
		return insertNewDuePostgres, arrays(events)
	case leasing:
		return insertAnyLeasedPostgres, append(arrays(events), wantArgs(lease, slotsOf(lease.Wants))...)
	default:
		return insertAnyDuePostgres, arrays(events)
	}
}

// oneEvent returns the parameters of insertOneNewPostgres and insertOneAnyPostgres.
func oneEvent(e store.Event, lease LeaseOnInsert) []any {
	c := sqldb.Encode(e.Payload, e.Metadata)
	handlers := make(pq.StringArray, 0, len(lease.Wants))
	for _, w := range lease.Wants {
		if w.Topic == e.Topic {
			handlers = append(handlers, w.Handler)
		}
	}
	return []any{handlers, lease.Instance, e.ID, e.Topic, e.Key, c.TextOrNull(), c.BytesOrNull(), c.Metadata}
}

// arrays returns the columns of events: $1 to $6 of the statements for several events.
func arrays(events []store.Event) []any {
	var ids, topics, keys, texts, bytes, metadata sqldb.Array
	var size struct{ id, topic, key, payload int }
	for i := range events {
		e := &events[i]
		size.id, size.topic, size.key, size.payload = size.id+len(e.ID), size.topic+len(e.Topic), size.key+len(e.Key), size.payload+len(e.Payload)
	}
	n := len(events)
	ids.Grow(n, size.id)
	topics.Grow(n, size.topic)
	texts.Grow(n, size.payload+16*n) // for the quotes in the payloads
	metadata.Grow(n, 160*n)
	if size.key > 0 {
		keys.Grow(n, size.key)
	}
	nulls := 0 // NULLs that bytes lacks so far; the server fills a short array up with NULL
	for i := range events {
		e := &events[i]
		c := sqldb.Encode(e.Payload, e.Metadata)
		ids.Add(e.ID)
		topics.Add(e.Topic)
		metadata.Add(c.Metadata)
		if size.key > 0 {
			keys.Add(e.Key)
		}
		if c.JSON {
			texts.Add(c.Text)
			nulls++
			continue
		}
		texts.Null()
		for ; nulls > 0; nulls-- {
			bytes.Null()
		}
		bytes.AddBytes(c.Bytes)
	}
	for _, a := range []*sqldb.Array{&ids, &topics, &keys, &texts, &bytes, &metadata} {
		a.Close()
	}
	return []any{&ids, &topics, &keys, &texts, &bytes, &metadata}
}

// wantArgs returns the parameters of a lease. ns is, for each Want, how many events are
// leased, or the place of the last leased event.
func wantArgs(lease LeaseOnInsert, ns pq.Int64Array) []any {
	topics, handlers, _ := wantArrays(lease.Wants)
	return []any{lease.Instance, topics, handlers, ns}
}

func slotsOf(wants []Want) pq.Int64Array {
	_, _, ns := wantArrays(wants)
	return ns
}

// lastPlaces returns, for each Want, the place of the last event to lease, counted from
// 1.
func lastPlaces(events []store.Event, wants []Want) pq.Int64Array {
	places := make(pq.Int64Array, len(wants))
	for i, w := range wants {
		n := w.N
		for place := range events {
			if n == 0 {
				break
			}
			if events[place].Topic == w.Topic {
				n--
				places[i] = int64(place + 1)
			}
		}
	}
	return places
}

func (postgres) inserted(q *Queue, rows *sql.Rows, events []store.Event) (in Inserted, err error) {
	if len(events) == 1 {
		return insertedOne(q, rows, events[0].EventID())
	}
	for rows.Next() {
		var (
			fresh          int
			ids, topics    pq.StringArray
			topic, handler sql.NullString
			n              sql.NullInt64
			runs           pq.Int64Array
			of             pq.StringArray
			at             sqldb.Time
		)
		if err := rows.Scan(&fresh, &ids, &topics, &topic, &handler, &n, &runs, &of, &at); err != nil {
			return in, err
		}
		if in.IDs == nil {
			in.IDs = make([]store.EventID, 0, fresh)
			if fresh == len(events) {
				for i := range events {
					in.IDs = append(in.IDs, events[i].EventID())
				}
			}
			for i := range ids {
				in.IDs = append(in.IDs, store.EventID{Topic: topics[i], ID: ids[i]})
			}
		}
		in.Due += int(n.Int64) - len(runs)
		in.Leased = slices.Grow(in.Leased, len(runs))
		places := places{events: events}
		for i, run := range runs {
			place, err := places.of(topic.String, of[i])
			if err != nil {
				return in, err
			}
			q.db.NoteRun(run)
			in.Leased = append(in.Leased, LeasedRun{RunID: run, Handler: handler.String, Event: place, StartedAt: at.Time, PublishedAt: at.Time})
		}
	}
	in.unheard()
	return in, rows.Err()
}

// insertedOne reads one row for each run, or one row without a run.
func insertedOne(q *Queue, rows *sql.Rows, event store.EventID) (in Inserted, err error) {
	for rows.Next() {
		var (
			fresh   bool
			run     sql.NullInt64
			handler sql.NullString
			leased  bool
			at      sqldb.Time
		)
		if err := rows.Scan(&fresh, &run, &handler, &leased, &at); err != nil {
			return in, err
		}
		if fresh && in.IDs == nil {
			in.IDs = []store.EventID{event}
		}
		switch {
		case leased:
			q.db.NoteRun(run.Int64)
			in.Leased = append(in.Leased, LeasedRun{RunID: run.Int64, Handler: handler.String, StartedAt: at.Time, PublishedAt: at.Time})
		case run.Valid:
			in.Due++
		}
	}
	in.unheard()
	return in, rows.Err()
}

// places finds events by their ids. A lookup in the order of the events takes one step.
type places struct {
	events []store.Event
	next   int
}

func (p *places) of(topic, id string) (int, error) {
	for range p.events {
		place := p.next
		p.next = (p.next + 1) % len(p.events)
		if e := &p.events[place]; e.ID == id && e.Topic == topic {
			return place, nil
		}
	}
	return 0, fmt.Errorf("the database leased a run of event %q on topic %q, which was not written", id, topic)
}
