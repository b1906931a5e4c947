package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// takes returns the conditions of the runs that the operation takes up.
func (s *Operator) takes(o store.Operation, above, below int64) *sqldb.Conditions {
	f := o.Selection
	open := f.Status == ""
	if open && !o.EvenSuccessful {
		f.Status = store.Failed
	}
	c := s.record.Conditions(f, above, below)
	switch {
	case open && o.EvenSuccessful:
		c.And(`r.status IN ('FAILED', 'SUCCESS')`)
	case f.Status == store.Pending:
		c.And(`r.due_at IS NOT NULL`) // not leased
	}
	return c
}

// cursor is the progress of an operation.
type cursor struct {
	Run  int64 `json:"run,omitempty"`   // all selected runs up to this id are taken up
	UpTo int64 `json:"up_to,omitempty"` // the last run at the time of the request
	// Of a backfill: all events before Until are taken up as far as this event, in the
	// order of time and id.
	At    time.Time `json:"at,omitzero"`
	Event string    `json:"event,omitempty"`
	Until time.Time `json:"until,omitzero"`
}

// Request records an operation and returns it with ID, Total and RequestedAt. It takes
// no run up yet.
//
// A replay is refused as a whole if its selection includes a run of a handler without a
// subscription: no instance would claim the run.
func (s *Operator) Request(ctx context.Context, asked store.Operation) (store.Operation, error) {
	o := operation{Operation: asked}
	if err := o.Validate(); err != nil {
		return asked, err
	}
	fail := func(err error) (store.Operation, error) {
		return o.Operation, fmt.Errorf("request a %s: %w", o.Kind, err)
	}
	if err := s.db.GetContext(ctx, &o.cursor.UpTo, s.db.SQL(`SELECT coalesce(max(id), 0) FROM reprise.handler_runs`)); err != nil {
		return fail(err)
	}
	selected, err := s.selected(ctx, o)
	if err != nil {
		return fail(err)
	}
	var unserved []string
	for _, part := range selected {
		o.Total.N += part.Runs
		if o.Kind == store.Replaying && !part.Subscribed {
			unserved = append(unserved, part.Handler)
		}
	}
	o.Total.More = o.Total.N == store.TotalCount
	if len(unserved) > 0 {
		return o.Operation, fmt.Errorf("no subscription for handler %s: register it with the bus, or select other handlers; nothing was replayed",
			strings.Join(slices.Compact(unserved), ", "))
	}
	if err := s.request(ctx, s.db.Pool(), &o); err != nil {
		return fail(err)
	}
	return o.Operation, nil
}

// request inserts the operation's row.
func (s *Operator) request(ctx context.Context, q sqldb.Queryer, o *operation) error {
	selected := any(o.Selection)
	if o.Kind.OnOutbox() {
		selected = o.Outbox
	}
	selection, err := json.Marshal(selected)
	if err != nil {
		return err
	}
	o.State, o.Complete = store.Running, false
	o.RequestedBy, o.Reason = sqldb.Printable(o.RequestedBy, sqldb.MaxName), sqldb.Printable(o.Reason, sqldb.MaxMessage)
	var requested sqldb.Time
	err = s.db.QueryRow(ctx, q, s.db.SQL(`
		INSERT INTO reprise.operations (kind, requested_by, reason, selection, even_successful, rate, total, cursor)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		RETURNING id, requested_at`),
		[]any{string(o.Kind), o.RequestedBy, o.Reason, string(selection), o.EvenSuccessful, o.Rate, o.Total.N, o.cursor.text()},
		&o.ID, &requested)
	if err != nil {
		return sqldb.RowError(err)
	}
	o.RequestedAt = requested.Time
	return nil
}

// put is request for an operation that needs no batches.
func (s *Operator) put(ctx context.Context, q sqldb.Queryer, asked store.Operation) (store.Operation, error) {
	o := operation{Operation: asked}
	err := s.request(ctx, q, &o)
	return o.Operation, err
}

func (c cursor) text() string {
	text, _ := json.Marshal(c) // numbers and strings always marshal
	return string(text)
}

// part is the number of selected runs of one handler.
type part struct {
	Handler    string
	Runs       int64
	Subscribed bool
}

// selected counts the runs that the operation is about to take up, by topic and
// handler.
func (s *Operator) selected(ctx context.Context, o operation) (parts []part, err error) {
	c := s.takes(o.Operation, 0, o.cursor.UpTo+1)
	err = s.db.SelectContext(ctx, &parts, s.db.Compose(fmt.Sprintf(`
		SELECT g.handler, g.runs,
		       EXISTS (SELECT 1 FROM reprise.subscriptions s WHERE s.topic = g.topic AND s.handler = g.handler) AS subscribed
		FROM (
			SELECT r.topic, r.handler, count(*) AS runs
			FROM (SELECT * FROM reprise.handler_runs r WHERE %s LIMIT %d) r
			GROUP BY r.topic, r.handler
		) g
		ORDER BY g.handler`, c.Where(), store.TotalCount)), c.Args...)
	return parts, err
}
