package queue

import (
	"database/sql"
	"fmt"
	"slices"

	"github.com/reprise-bus/reprise/internal/sqldb"

	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/store"
)

// What PostgreSQL does to publish. The statements are on every publisher's way:
// what they do not need for a lease they leave out when there is none; those for
// events that are likely to be new do not look for others first; and a single
// event, which takes the database two thirds of the time then, has a statement
// of its own. An event that is there already with another payload makes them
// fail with idTaken: nothing is written then, and the error, unlike a violated
// constraint's, quotes no row.
//
// The statements that look for known events insert the events in the order of
// their ids, whatever the order of publishing: two transactions with the same
// events then wait for each other instead of deadlocking. Runs are created in
// the order of publishing, when all events of the statement are there.

func (postgres) insert(events []store.Event, lease LeaseOnInsert, likelyNew bool) (string, []any) {
	leasing := len(lease.Wants) > 0
	switch {
	case len(events) == 1 && likelyNew:
		return insertOneNew, oneEvent(events[0], lease)
	case len(events) == 1:
		return insertOneAny, oneEvent(events[0], lease)
	case likelyNew && leasing:
		return insertNewLeased, append(arrays(events), wantArgs(lease, lastPlaces(events, lease.Wants))...)
	case likelyNew:
		return insertNewDue, arrays(events)
	case leasing:
		return insertAnyLeased, append(arrays(events), wantArgs(lease, slotsOf(lease.Wants))...)
	default:
		return insertAnyDue, arrays(events)
	}
}

// oneEvent returns the parameters of insertOne.
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

// arrays returns the columns of events, as unnested expects them.
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
	texts.Grow(n, size.payload+16*n) // for the quotes in it
	metadata.Grow(n, 160*n)
	if size.key > 0 {
		keys.Grow(n, size.key)
	}
	nulls := 0 // of bytes: an array that is too short is filled up with them
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

// wantArgs returns the parameters of a lease. ns says how many events of each
// want are leased, or up to which place.
func wantArgs(lease LeaseOnInsert, ns pq.Int64Array) []any {
	topics, handlers, _ := wantArrays(lease.Wants)
	return []any{lease.Instance, topics, handlers, ns}
}

func slotsOf(wants []Want) pq.Int64Array {
	_, _, ns := wantArrays(wants)
	return ns
}

// lastPlaces returns for each want the place, from 1, of the last event that it
// is to be leased.
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

// unnested are the columns that arrays returns.
const unnested = `unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[]`

const (
	unlessTaken = `
			ON CONFLICT (id, topic) DO UPDATE SET source = reprise.id_taken(was.id) -- which fails
			WHERE was.payload::text IS DISTINCT FROM excluded.payload::text
			OR was.payload_bytes IS DISTINCT FROM excluded.payload_bytes`
	// Every transaction inserts, and so locks, its events in this order: that of
	// EventID.Compare.
	inOneOrder = `
			ORDER BY topic COLLATE "C", id COLLATE "C"`
	// A lease locks the instance, so that nobody forgets it before the leases
	// are committed.
	knownInstance = `SELECT id FROM reprise.instances WHERE id = `
)

const (
	insertOneNew = insertOneHead + insertOneTail
	insertOneAny = insertOneHead + unlessTaken + insertOneTail

	insertOneHead = `
		WITH known AS (
			` + knownInstance + `$2 FOR KEY SHARE
		), published AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
			VALUES ($3::text, $4::text, $5::text, $6::text::json, $7::bytea, $8::text::json)`
	insertOneTail = `
			RETURNING 1
		), run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, tries, instance, due_at, started_at)
			SELECT $3::text, $4::text, s.handler, $5::text, (k.id IS NOT NULL)::int, (k.id IS NOT NULL)::int, k.id,
			       CASE WHEN k.id IS NULL THEN now() END, CASE WHEN k.id IS NOT NULL THEN now() END
			FROM published
			CROSS JOIN reprise.subscriptions s
			LEFT JOIN known k ON s.handler = ANY ($1::text[])
			WHERE s.topic = $4
			RETURNING id, handler, instance
		)
		SELECT EXISTS (SELECT FROM published), r.id, r.handler, r.instance IS NOT NULL, now()
		FROM (SELECT) one LEFT JOIN run r ON true`
)

// The statements for several events return rows of: how many events are new;
// which, unless all are; and of the runs of one handler how many they are,
// and when they are leased their ids and events, in the same order; and when the
// events were published, which is also when the leased runs started.
const (
	insertNewDue = insertNew + dueRuns + `
		SELECT cardinality($1::text[]), NULL, NULL, NULL, NULL, (SELECT count(*) FROM run), NULL, NULL, now()`
	insertNewLeased = insertNew + wanted + `, run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, tries, instance, due_at, started_at)
			SELECT p.id, p.topic, s.handler, p.key,` + leasedOrDue + `
			FROM placed p
			JOIN reprise.subscriptions s ON s.topic = p.topic
			LEFT JOIN lease l ON l.topic = s.topic AND l.handler = s.handler AND p.place <= l.n
			ORDER BY p.place
			RETURNING id, event_id, topic, handler, instance
		)
		SELECT cardinality($1::text[]), NULL, NULL, r.*, now() FROM (SELECT) one LEFT JOIN (` + byHandler + `) r ON true`

	insertNew = `
		WITH placed AS (
			SELECT id, topic, coalesce(key, '') AS key, text, bytes, metadata, place
			FROM ` + unnested + `) WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, place)
		), published AS (
			INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata)
			SELECT id, topic, key, text::json, bytes, metadata::json FROM placed
		)`

	insertAnyDue = insertAny + dueRuns + `
		SELECT f.*, NULL, NULL, (SELECT count(*) FROM run), NULL, NULL, now() FROM fresh f`
	insertAnyLeased = insertAny + wanted + `, run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, attempt, tries, instance, due_at, started_at)
			SELECT p.id, p.topic, s.handler, p.key,` + leasedOrDue + `
			FROM (SELECT *, row_number() OVER (PARTITION BY topic ORDER BY place) AS nth FROM placed) p
			JOIN reprise.subscriptions s ON s.topic = p.topic
			LEFT JOIN lease l ON l.topic = s.topic AND l.handler = s.handler AND p.nth <= l.n
			ORDER BY p.place
			RETURNING id, event_id, topic, handler, instance
		)
		SELECT f.*, r.*, now() FROM fresh f LEFT JOIN (` + byHandler + `) r ON true`

	insertAny = `
		WITH input AS (
			SELECT id, topic, coalesce(key, '') AS key, text, bytes, metadata, place
			FROM ` + unnested + `) WITH ORDINALITY AS e (id, topic, key, text, bytes, metadata, place)
		), published AS (
			INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
			SELECT id, topic, key, text::json, bytes, metadata::json FROM input` + inOneOrder + unlessTaken + `
			RETURNING was.id, was.topic
		), placed AS (
			SELECT i.id, i.topic, i.key, i.place FROM published p JOIN input i ON i.id = p.id AND i.topic = p.topic
		), fresh AS (
			SELECT n, CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(id ORDER BY place) FROM placed) END AS ids,
			       CASE WHEN n < cardinality($1::text[]) THEN (SELECT array_agg(topic ORDER BY place) FROM placed) END AS topics
			FROM (SELECT count(*) AS n FROM published) counted
		)`

	dueRuns = `, run AS (
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at)
			SELECT p.id, p.topic, s.handler, p.key, now()
			FROM placed p JOIN reprise.subscriptions s ON s.topic = p.topic
			ORDER BY p.place
			RETURNING 1
		)`
	wanted = `, known AS (
			` + knownInstance + `$7 FOR KEY SHARE
		), lease AS (
			SELECT l.topic, l.handler, l.n
			FROM unnest($8::text[], $9::text[], $10::bigint[]) AS l (topic, handler, n), known
		)`
	leasedOrDue = `
			       (l.n IS NOT NULL)::int, (l.n IS NOT NULL)::int,
			       CASE WHEN l.n IS NOT NULL THEN $7 END,
			       CASE WHEN l.n IS NULL THEN now() END,
			       CASE WHEN l.n IS NOT NULL THEN now() END`
	byHandler = `
			SELECT topic, handler, count(*),
			       array_agg(id) FILTER (WHERE instance IS NOT NULL), array_agg(event_id) FILTER (WHERE instance IS NOT NULL)
			FROM run GROUP BY topic, handler, instance IS NULL`
)

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

// insertedOne reads a row for each run, or one without a run.
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

// places finds events by their ids, at once when asked in their order.
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
