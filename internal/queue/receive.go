package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// Received is what a Receive wrote.
type Received struct {
	Leased []LeasedRun // leased runs
	Due    int         // number of other new runs
	Known  int         // number of known events
	Resent bool        // the statement was sent twice: runs of known events may be leased as well

	// Other are the known events whose metadata in the database is another text. They
	// got no run of the handler.
	Other []OtherMetadata
}

// OtherMetadata is the metadata that the database has of an event, and the index of the
// event in the input.
type OtherMetadata struct {
	Event    int
	Metadata map[string]string
}

// Receive writes the events that another transport delivered, unless they are known,
// and a run of the handler for each event without one, in the order of the events. The
// first N events of the lease's Want are leased, the others due. Everything is
// committed when Receive returns; with an error that is sqldb.Refused, nothing is.
//
// The events must be valid, of one Source and Unique; pass at most a few hundred. A
// known id with another payload is ErrDuplicateID. A known event with other metadata
// gets no run, unless it is Declared: the caller finds out whether it Repeats the
// first.
func (q *Queue) Receive(ctx context.Context, handler string, events []store.Event, lease LeaseOnInsert) (Received, error) {
	return q.receiveBy(ctx, receiveAnyPostgres, handler, events, lease)
}

// ReceiveNew is Receive without a lookup of known events. If one of the events is
// known, nothing is written, and the error is ErrKnown.
func (q *Queue) ReceiveNew(ctx context.Context, handler string, events []store.Event, lease LeaseOnInsert) (Received, error) {
	return q.receiveBy(ctx, receiveNewPostgres, handler, events, lease)
}

func (q *Queue) receiveBy(ctx context.Context, query, handler string, events []store.Event, lease LeaseOnInsert) (in Received, err error) {
	if len(events) == 0 {
		return in, nil
	}
	if err := errors.Join(sqldb.ValidName("handler", handler), lease.validate()); err != nil {
		return in, err
	}
	for i := range events {
		if err := events[i].Validate(); err != nil {
			return in, err
		}
		if source := events[i].Source; source == "" || source == store.SourcePublish {
			return in, fmt.Errorf("receive event %q: source %.255q: want the name of the subscriber that delivered it", events[i].ID, source)
		}
	}
	if q.db.Kind() == dialect.SQLite {
		in, err = q.receiveSQLite(ctx, handler, events)
	} else {
		in, err = q.receive(ctx, query, handler, events, lease)
	}
	if err != nil {
		return Received{}, fmt.Errorf("receive %d events for handler %q: %w", len(events), handler, insertError(err, query == receiveNewPostgres))
	}
	return in, nil
}

func (q *Queue) receive(ctx context.Context, query, handler string, events []store.Event, lease LeaseOnInsert) (in Received, err error) {
	n := 0
	for _, w := range lease.Wants {
		n += w.N
	}
	args := append(arrays(events), sqldb.Printable(events[0].Source, sqldb.MaxName), handler, lease.Instance, n)
	if query == receiveAnyPostgres {
		declared := pq.StringArray{}
		for _, e := range events {
			if e.Declared {
				declared = append(declared, e.ID)
			}
		}
		args = append(args, declared)
	}
	times, err := q.db.QueryTimes(ctx, q.db.Pool(), q.db.SQL(query), args, func(rows *sql.Rows) error {
		in = Received{}
		for rows.Next() {
			var runs, ages, others pq.Int64Array
			var ids, topics, had pq.StringArray
			var at sqldb.Time
			if err := rows.Scan(&in.Known, &in.Due, &runs, &ids, &topics, &at, &ages, &others, &had); err != nil {
				return err
			}
			for i, place := range others {
				if err := in.other(int(place)-1, had[i]); err != nil {
					return err
				}
			}
			places := places{events: events}
			for i, run := range runs {
				place, err := places.of(topics[i], ids[i])
				if err != nil {
					return err
				}
				q.db.NoteRun(run)
				in.Leased = append(in.Leased, LeasedRun{
					RunID: run, Handler: handler, Event: place,
					StartedAt: at.Time, PublishedAt: at.Add(-time.Duration(ages[i]) * time.Microsecond),
				})
			}
		}
		return nil
	})
	in.Resent = times > 1
	return in, err
}

func (q *Queue) receiveSQLite(ctx context.Context, handler string, events []store.Event) (in Received, err error) {
	err = q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		in = Received{}
		for i, e := range events {
			c := sqldb.Encode(e.Payload, e.Metadata)
			inserted, err := tx.ExecContext(ctx, q.db.SQL(receiveEventSQLite),
				e.ID, e.Topic, e.Key, c.TextOrNull(), c.BytesOrNull(), c.Metadata, sqldb.Printable(e.Source, sqldb.MaxName))
			if err != nil {
				return err
			}
			if n, err := inserted.RowsAffected(); err != nil {
				return err
			} else if n == 0 {
				in.Known++
				var had string
				if err := tx.GetContext(ctx, &had, q.db.SQL(receivedMetadataSQLite), e.ID, e.Topic); err != nil {
					return err
				}
				if had != c.Metadata && !e.Declared {
					if err := in.other(i, had); err != nil {
						return err
					}
					continue
				}
			}
			result, err := tx.ExecContext(ctx, q.db.SQL(receiveRunSQLite), e.ID, e.Topic, handler)
			if err != nil {
				return err
			}
			n, err := result.RowsAffected()
			if err != nil {
				return err
			}
			in.Due += int(n)
		}
		return nil
	})
	return in, err
}

// other notes the metadata that the database has of an event.
func (in *Received) other(event int, text string) error {
	o := OtherMetadata{Event: event}
	if err := json.Unmarshal([]byte(text), &o.Metadata); err != nil {
		return fmt.Errorf("metadata in the database: %w", err)
	}
	in.Other = append(in.Other, o)
	return nil
}
