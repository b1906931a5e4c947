package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/store"
)

// history is all that is on record about one event id, on both topics.
type history struct {
	id       string
	known    entry // the publisher's; without a fact when it knows nothing
	payloads map[string][]byte
	ordered  Ordered // decoded, when it is there
	runs     map[subscription][]run
	attempts map[subscription][]attempt
	notes    map[subscription][]note
	effects  map[subscription][]int // attempts
	orders   int                    // business rows
	added    []addition             // handlers, at whatever time
}

type subscription struct{ topic, handler string }

type (
	event struct {
		topic   string
		payload []byte
	}
	run struct {
		subscription
		id                         int64
		status                     store.Status
		attempt                    int
		kind, message, fingerprint string
		replayed                   bool
	}
	attempt struct {
		subscription
		attempt       int
		kind, message string
	}
	note struct {
		subscription
		attempt int
		what    string
	}
	effect struct {
		subscription
		attempt int
	}
)

// histories passes the history of every event to f, once each: of those that
// the database knows anything about, and of those that only a journal does.
func histories(ctx context.Context, db *sql.DB, kind dialect.Kind, known map[string]entry, added []addition, f func(*history)) (err error) {
	r, err := newReader(ctx, db, kind, known)
	if err != nil {
		return fmt.Errorf("read the record: %w", err)
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for {
		h, err := r.next()
		if err != nil || h == nil {
			return err
		}
		h.added = added
		f(h)
	}
}

// reader merges all tables by event id.
type reader struct {
	known    map[string]entry
	ids      []string // of known, sorted, not read yet
	events   *stream[event]
	runs     *stream[run]
	attempts *stream[attempt]
	notes    *stream[note]
	effects  *stream[effect]
	orders   *stream[struct{}]
}

func newReader(ctx context.Context, db *sql.DB, kind dialect.Kind, known map[string]entry) (*reader, error) {
	query := func(text string) string { // byte order, as Go has it
		text = kind.Qualify(dialect.DefaultSchema, text)
		if kind == dialect.Postgres {
			text += ` COLLATE "C"`
		}
		return text
	}
	r := &reader{known: known}
	for id := range known {
		r.ids = append(r.ids, id)
	}
	slices.Sort(r.ids)
	var errs [6]error
	r.events, errs[0] = newStream(ctx, db, query(`SELECT id, topic, payload FROM reprise.events ORDER BY id`),
		func(rows *sql.Rows, id *string, e *event) error { return rows.Scan(id, &e.topic, &e.payload) })
	r.runs, errs[1] = newStream(ctx, db, query(`
		SELECT event_id, topic, handler, id, status, attempt, coalesce(error_kind, ''), coalesce(error, ''), coalesce(fingerprint, ''), replay_id IS NOT NULL
		FROM reprise.handler_runs ORDER BY event_id`),
		func(rows *sql.Rows, id *string, r *run) error {
			return rows.Scan(id, &r.topic, &r.handler, &r.id, &r.status, &r.attempt, &r.kind, &r.message, &r.fingerprint, &r.replayed)
		})
	r.attempts, errs[2] = newStream(ctx, db, query(`
		SELECT r.event_id, r.topic, r.handler, a.attempt, a.kind, a.message
		FROM reprise.run_attempts a JOIN reprise.handler_runs r ON r.id = a.run_id ORDER BY r.event_id`),
		func(rows *sql.Rows, id *string, a *attempt) error {
			return rows.Scan(id, &a.topic, &a.handler, &a.attempt, &a.kind, &a.message)
		})
	r.notes, errs[3] = newStream(ctx, db, query(`SELECT event_id, topic, handler, attempt, what FROM soak_notes ORDER BY event_id`),
		func(rows *sql.Rows, id *string, n *note) error {
			return rows.Scan(id, &n.topic, &n.handler, &n.attempt, &n.what)
		})
	r.effects, errs[4] = newStream(ctx, db, query(`SELECT event_id, topic, handler, attempt FROM soak_effects ORDER BY event_id`),
		func(rows *sql.Rows, id *string, e *effect) error {
			return rows.Scan(id, &e.topic, &e.handler, &e.attempt)
		})
	r.orders, errs[5] = newStream(ctx, db, query(`SELECT id FROM soak_orders ORDER BY id`),
		func(rows *sql.Rows, id *string, _ *struct{}) error { return rows.Scan(id) })
	if err := errors.Join(errs[:]...); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *reader) close() error {
	var errs []error
	for _, s := range []interface{ close() error }{r.events, r.runs, r.attempts, r.notes, r.effects, r.orders} {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// next returns the history of the lowest id that is left, or nil.
func (r *reader) next() (*history, error) {
	id, found := "", len(r.ids) > 0
	if found {
		id = r.ids[0]
	}
	for _, s := range []interface {
		lowest(string, bool) (string, bool)
	}{r.events, r.runs, r.attempts, r.notes, r.effects, r.orders} {
		id, found = s.lowest(id, found)
	}
	if !found {
		return nil, nil
	}
	if len(r.ids) > 0 && r.ids[0] == id {
		r.ids = r.ids[1:]
	}
	return r.read(id)
}

func (r *reader) read(id string) (*history, error) {
	var errs [6]error
	events, err := r.events.take(id)
	errs[0] = err
	runs, err := r.runs.take(id)
	errs[1] = err
	attempts, err := r.attempts.take(id)
	errs[2] = err
	notes, err := r.notes.take(id)
	errs[3] = err
	effects, err := r.effects.take(id)
	errs[4] = err
	orders, err := r.orders.take(id)
	errs[5] = err
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	h := &history{
		id: id, known: r.known[id], orders: len(orders),
		payloads: map[string][]byte{},
		runs:     map[subscription][]run{}, attempts: map[subscription][]attempt{},
		notes: map[subscription][]note{}, effects: map[subscription][]int{},
	}
	for _, e := range events {
		h.payloads[e.topic] = e.payload
	}
	for _, r := range runs {
		h.runs[r.subscription] = append(h.runs[r.subscription], r)
	}
	for _, a := range attempts {
		h.attempts[a.subscription] = append(h.attempts[a.subscription], a)
	}
	for _, n := range notes {
		h.notes[n.subscription] = append(h.notes[n.subscription], n)
	}
	for _, e := range effects {
		h.effects[e.subscription] = append(h.effects[e.subscription], e.attempt)
	}
	if payload, ok := h.payloads[topicOrdered]; ok {
		if err := json.Unmarshal(payload, &h.ordered); err != nil {
			return nil, fmt.Errorf("event %s: its payload %.100q does not decode: %w", id, payload, err)
		}
	}
	return h, nil
}

// has says whether the event is there on a topic.
func (h *history) has(topic string) bool {
	_, ok := h.payloads[topic]
	return ok
}

// story is what a reader needs to know about a run whose promise is broken.
func (h *history) story(s subscription) string {
	var b strings.Builder
	fmt.Fprintf(&b, "event %s, handler %s:", h.id, s.handler)
	for _, r := range h.runs[s] {
		fmt.Fprintf(&b, " run %d %s on attempt %d %s;", r.id, r.status, r.attempt, r.kind)
	}
	for _, a := range h.attempts[s] {
		fmt.Fprintf(&b, " attempt %d %s;", a.attempt, a.kind)
	}
	for _, n := range h.notes[s] {
		fmt.Fprintf(&b, " %s on attempt %d;", n.what, n.attempt)
	}
	for _, e := range h.effects[s] {
		fmt.Fprintf(&b, " effect of attempt %d;", e)
	}
	return strings.TrimSuffix(b.String(), ";")
}
