package queue

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// LeaseOnInsert makes an insert create runs leased to an instance: for each Want, the
// first N events of its topic. The caller must hold N free slots. The zero value leases
// none.
type LeaseOnInsert struct {
	Instance string
	Wants    []Want
}

func (l LeaseOnInsert) validate() error { return validWants(l.Instance, l.Wants) }

// validWants reports names at which the database would fail.
func validWants(instance string, wants []Want) error {
	if !sqldb.Keepable(instance) {
		return fmt.Errorf("instance %.255q: want valid UTF-8 without NUL", instance)
	}
	for _, w := range wants {
		if !sqldb.Keepable(w.Topic, w.Handler) {
			return fmt.Errorf("runs of handler %.255q on topic %.255q: want valid UTF-8 without NUL", w.Handler, w.Topic)
		}
	}
	return nil
}

// LeasesOnInsert reports whether the database can lease runs on insert. If not, every
// run is created due.
func (q *Queue) LeasesOnInsert() bool { return q.db.Kind() == dialect.Postgres }

// Inserted is what an insert wrote.
type Inserted struct {
	IDs    []store.EventID // events that were not in the database
	Leased []LeasedRun     // leased runs
	Due    int             // number of other runs; on SQLite, number of new events

	// Unheard are the topics of new events that have no subscription. On PostgreSQL, a
	// statement for several topics reports them only if it has created no run.
	Unheard []string
}

// unheard sets Unheard after a statement that counts runs of all topics together.
func (in *Inserted) unheard() {
	if in.Due > 0 || len(in.Leased) > 0 {
		return
	}
	for _, id := range in.IDs {
		in.notHeard(id.Topic)
	}
}

func (in *Inserted) notHeard(topic string) {
	if !slices.Contains(in.Unheard, topic) {
		in.Unheard = append(in.Unheard, topic)
	}
}

// LeasedRun is a run that was created leased to an instance.
type LeasedRun struct {
	RunID   int64 // on attempt 1
	Handler string
	Event   int // index of its event in the input

	// StartedAt and PublishedAt are by the database's clock. In a transaction, both are
	// the time at which the transaction began.
	StartedAt   time.Time
	PublishedAt time.Time
}

// Insert writes events and a run for each subscription of their topics, in one
// statement. A run is leased where lease asks for it, and due otherwise. The events
// must be valid and Unique; pass at most a few thousand events and a few MiB of
// payload. db is the store's pool, on which the statement commits by itself, or the
// caller's transaction.
//
// Publishing a known event again writes nothing, whatever the state of its runs and its
// metadata: KnownMetadata tells whether it Repeats the first. A known id with another
// payload is ErrDuplicateID. sqldb.Refused tells whether an error leaves open that the
// statement had an effect.
func (q *Queue) Insert(ctx context.Context, db sqldb.Queryer, events []store.Event, lease LeaseOnInsert) (Inserted, error) {
	return q.insert(ctx, db, events, lease, false)
}

// InsertNew is Insert without a lookup of known events. The events need not be Unique.
// If one of them is known or stands twice in events, nothing is written, and the error
// is ErrKnown. On SQLite it is Insert.
func (q *Queue) InsertNew(ctx context.Context, db sqldb.Queryer, events []store.Event, lease LeaseOnInsert) (Inserted, error) {
	return q.insert(ctx, db, events, lease, true)
}

func (q *Queue) insert(ctx context.Context, db sqldb.Queryer, events []store.Event, lease LeaseOnInsert, likelyNew bool) (in Inserted, err error) {
	if len(events) == 0 {
		return in, errors.New("insert no events: want at least one")
	}
	for i := range events {
		if err := events[i].Validate(); err != nil {
			return in, err
		}
	}
	if err := lease.validate(); err != nil {
		return in, err
	}
	query, args := q.dialect.insert(q.db, events, lease, likelyNew)
	if err := q.db.Query(ctx, db, query, args, func(rows *sql.Rows) (err error) {
		in, err = q.dialect.inserted(q, rows, events)
		return err
	}); err != nil {
		return Inserted{}, insertError(err, likelyNew)
	}
	return in, nil
}

// Unique returns the first event of each id, and separately the later events of these
// ids with other metadata. Whether one of the others repeats the first depends on what
// the database has under the id. Exact repetitions are left out. Another payload under
// the same id is ErrDuplicateID.
func Unique(events []store.Event) (unique, others []store.Event, err error) {
	if len(events) == 1 {
		return events, nil, nil
	}
	known := make(map[store.EventID]*store.Event, len(events))
	for i := range events {
		known[events[i].EventID()] = nil
	}
	if len(known) == len(events) {
		return events, nil, nil
	}
	for i := range events {
		e := &events[i]
		switch first := known[e.EventID()]; {
		case first == nil:
			unique = append(unique, *e)
			known[e.EventID()] = e
		case !bytes.Equal(first.Payload, e.Payload):
			return nil, nil, fmt.Errorf("event %q stands twice in one publish, with different payloads: %w", e.ID, store.ErrDuplicateID)
		case e.Repeats(first.Metadata):
			others = append(others, *e)
		}
	}
	return unique, others, nil
}

// Together is Unique for events of which the database has none: each of the others
// becomes a Repeat of the first.
func Together(events []store.Event) ([]store.Event, error) {
	unique, others, err := Unique(events)
	if err != nil || len(others) == 0 {
		return unique, err
	}
	for _, e := range others {
		unique = append(unique, e.Repeat())
	}
	unique, _, err = Unique(unique)
	return unique, err
}

// ErrKnown is returned by InsertNew and ReceiveNew; nothing is written. Insert and
// Receive distinguish a known event from the violation of another constraint.
var ErrKnown = errors.New("an event is known already")

const (
	// idTaken is the SQLSTATE of reprise.id_taken, by which PostgreSQL's statements
	// fail for a known event with another payload. takenMessage begins its message, in
	// every language of the server.
	idTaken      = "RP001"
	takenMessage = "reprise: the id is taken: "

	// notNullViolation is SQLite's code for an insert that fails on purpose: see its
	// statement.
	notNullViolation = 1299
)

// insertError translates the error of an insert: to ErrDuplicateID or, for events that
// were likely to be new, to ErrKnown. It keeps the number of times that the statement
// was sent.
func insertError(err error, likelyNew bool) error {
	code, _ := dialect.ResultCode(err)
	var explained error
	switch state := sqldb.State(err); {
	case state == idTaken:
		explained = fmt.Errorf("event %q: %w, with another payload: give each message an id of its own", takenID(err), store.ErrDuplicateID)
	case code == notNullViolation: // every other NOT NULL column is validated
		explained = fmt.Errorf("%w, with another payload: give each message an id of its own", store.ErrDuplicateID)
	case state == sqldb.UniqueViolation && likelyNew: // Insert finds out which event
		return fmt.Errorf("%w: %w", ErrKnown, err)
	default:
		return sqldb.RowError(err)
	}
	var sent *sqldb.SentError
	if errors.As(err, &sent) {
		return &sqldb.SentError{Err: explained, Times: sent.Times}
	}
	return explained
}

// takenID cuts the id out of the message of reprise.id_taken, for display. lib/pq and
// pgx both put the SQLSTATE after the message, in parentheses.
func takenID(err error) string {
	_, id, _ := strings.Cut(err.Error(), takenMessage)
	if i := strings.LastIndex(id, " ("); i >= 0 {
		id = id[:i]
	}
	return id
}
