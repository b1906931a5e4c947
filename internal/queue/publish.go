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

// LeaseOnInsert asks for runs to be created in an instance's hands: for each
// Want the first N events of its topic, which must be free slots. The zero
// value asks for none.
type LeaseOnInsert struct {
	Instance string
	Wants    []Want
}

func (l LeaseOnInsert) validate() error { return validWants(l.Instance, l.Wants) }

// validWants reports names that the database would fail at.
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

// LeasesOnInsert says whether the database can do that; where it cannot, runs
// are created due.
func (q *Queue) LeasesOnInsert() bool { return q.db.Kind() == dialect.Postgres }

// Inserted is what an insert wrote.
type Inserted struct {
	IDs    []store.EventID // of the events that were not in the database yet
	Leased []LeasedRun     // the runs that were leased
	Due    int             // how many other runs were created; on SQLite, of how many events

	// Unheard are the topics of new events that nobody is subscribed to. On
	// PostgreSQL a statement for several topics knows of them only when it has
	// created no run at all.
	Unheard []string
}

// unheard sets Unheard after a statement that counts runs, not those of each topic.
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

// LeasedRun is a run that was created in an instance's hands.
type LeasedRun struct {
	RunID   int64 // on attempt 1
	Handler string
	Event   int // the index of its event among those that were to be written

	// StartedAt and PublishedAt are those of the run, by the database's clock. In a
	// transaction, both are the time at which it began.
	StartedAt   time.Time
	PublishedAt time.Time
}

// Insert writes events, which must be valid and Unique, and a run for each
// subscription of their topics, in one statement: due, or leased where the lease
// asks for it. db is the store's pool, where the statement is committed by itself, or
// a transaction of the caller's. A few thousand events and a few MiB of payload make
// a good statement.
//
// Publishing an event again does nothing, whatever became of its runs and whatever
// its metadata: KnownMetadata tells whether it Repeats the first. Another payload
// under an id that the topic has already is ErrDuplicateID. Whether something may
// have been written in spite of an error, Refused tells.
func (q *Queue) Insert(ctx context.Context, db sqldb.Queryer, events []store.Event, lease LeaseOnInsert) (Inserted, error) {
	return q.insert(ctx, db, events, lease, false)
}

// InsertNew is Insert of events of which none is known: the database has less to
// look for. They need not be Unique. If one of them is known, or there twice, nothing
// is written, and the error is ErrKnown. On SQLite it is Insert.
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
	query, args := q.dialect.insert(events, lease, likelyNew)
	if q.db.Kind() == dialect.SQLite { // its text depends on how many events there are
		query = q.db.Compose(query)
	} else {
		query = q.db.SQL(query)
	}
	if err := q.db.Query(ctx, db, query, args, func(rows *sql.Rows) (err error) {
		in, err = q.dialect.inserted(q, rows, events)
		return err
	}); err != nil {
		return Inserted{}, insertError(err, likelyNew)
	}
	return in, nil
}

// Unique returns the first event of each id, and apart from them the others of
// these ids whose metadata says something else: whether they repeat it, only what
// the database has under the id can tell. What stands there twice is left out.
// Another payload under the same id is ErrDuplicateID.
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

// Together is Unique where no database has any of the events: the others are
// Repeats of the first.
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

// ErrKnown is what InsertNew and ReceiveNew fail with: nothing is written.
// Insert and Receive tell what is known from what another constraint refuses.
var ErrKnown = errors.New("an event is known already")

const (
	// idTaken is the SQLSTATE of reprise.id_taken, by which PostgreSQL's
	// statements fail when an event is there with another payload. takenMessage
	// begins its message, which is the same in every language of the server.
	idTaken      = "RP001"
	takenMessage = "reprise: the id is taken: "

	// notNullViolation is SQLite's code of an insert that fails on purpose: see its
	// statement.
	notNullViolation = 1299
)

// insertError says what the error of a statement that inserts means: ErrDuplicateID,
// or, of events that were likely to be new, ErrKnown. How often it was sent stays
// with it.
func insertError(err error, likelyNew bool) error {
	code, _ := dialect.ResultCode(err)
	var explained error
	switch state := sqldb.State(err); {
	case state == idTaken:
		explained = fmt.Errorf("event %q: %w, with another payload: give each message an id of its own", takenID(err), store.ErrDuplicateID)
	case code == notNullViolation: // all that may be NULL otherwise is valid
		explained = fmt.Errorf("%w, with another payload: give each message an id of its own", store.ErrDuplicateID)
	case state == sqldb.UniqueViolation && likelyNew: // Insert finds out which
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

// takenID cuts the id out of the message of reprise.id_taken, to be shown: lib/pq
// and pgx both put the SQLSTATE behind the message, in parentheses.
func takenID(err error) string {
	_, id, _ := strings.Cut(err.Error(), takenMessage)
	if i := strings.LastIndex(id, " ("); i >= 0 {
		id = id[:i]
	}
	return id
}
