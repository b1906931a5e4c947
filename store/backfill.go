package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
)

// RequestBackfill puts on record that a handler is to get runs for the past
// events of its topic which it has none for, and returns the operation with ID,
// Total and RequestedAt filled in. The selection is of Handler, Topic, Since
// and Until, and of nothing else; Topic may be empty when the handler has one.
// Nothing is created yet: Take does it, the oldest events first.
func (s *Store) RequestBackfill(ctx context.Context, o Operation) (Operation, error) {
	o, err := s.PreviewBackfill(ctx, o)
	if err != nil {
		return o, err
	}
	if o, err = s.request(ctx, s.db.Pool(), o); err != nil {
		return o, fmt.Errorf("request a backfill: %w", err)
	}
	return o, nil
}

// PreviewBackfill returns the operation that RequestBackfill would put on
// record, with its topic and Total, and changes nothing.
func (s *Store) PreviewBackfill(ctx context.Context, o Operation) (Operation, error) {
	o.Kind = Backfilling
	if err := o.Validate(); err != nil {
		return o, err
	}
	f := o.Selection
	rest := f
	rest.Handler, rest.Topic, rest.Since, rest.Until = "", "", time.Time{}, time.Time{}
	switch {
	case f.Handler == "":
		return o, errors.New("backfill: the handler is not named: set Handler")
	case !rest.Empty():
		return o, errors.New("backfill: want a selection of Handler, Topic, Since and Until only")
	}
	var err error
	if o.Selection.Topic, err = s.topicOf(ctx, f.Handler, f.Topic); err != nil {
		return o, fmt.Errorf("backfill: %w", err)
	}
	fail := func(err error) (Operation, error) { return o, fmt.Errorf("count the events of a backfill: %w", err) }
	o.cursor.Until = everything
	if !f.Until.IsZero() {
		o.cursor.Until = f.Until
	}
	o.cursor.At = f.Since
	if err := s.db.GetContext(ctx, &o.Total.N, s.db.SQL(fmt.Sprintf(`
		SELECT count(*) FROM (
			SELECT 1 FROM reprise.events e
			WHERE e.topic = $1 AND e.published_at >= $2 AND e.published_at < $3
			AND NOT EXISTS (SELECT 1 FROM reprise.handler_runs r WHERE r.event_id = e.id AND r.topic = e.topic AND r.handler = $4)
			LIMIT %d) e`, totalCount)), o.Selection.Topic, s.time(o.cursor.At), s.time(o.cursor.Until), f.Handler); err != nil {
		return fail(err)
	}
	o.Total.More = o.Total.N == totalCount
	return o, nil
}

// everything is until when a backfill takes events that was asked for no time: all
// that it finds. No moment parts the past from the future: an event bears the time
// at which its transaction began, by a clock that may be set back. What has its run
// already is passed over.
var everything = farAway

// SubscribeFromBeginning is Subscribe for a handler that, if it is new, gets the
// past events of its topic, too: a backfill is put on record together with the
// subscription.
func (s *Store) SubscribeFromBeginning(ctx context.Context, sub Subscription, policy string) error {
	err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		fresh, err := s.SubscribeTx(ctx, tx, sub, policy)
		if err != nil || !fresh {
			return err
		}
		return s.RequestPast(ctx, tx, sub)
	})
	if err != nil {
		return err
	}
	return s.Subscribe(ctx, sub, policy)
}

// RequestPast puts a backfill of all past events on record, in a transaction in
// which the subscription is new. Its Total is not known.
func (s *Store) RequestPast(ctx context.Context, tx sqldb.Queryer, sub Subscription) error {
	o := Operation{
		Kind: Backfilling, RequestedBy: sub.Handler, Reason: "the handler is new, and begins with the beginning",
		Selection: Filter{Handler: sub.Handler, Topic: sub.Topic},
	}
	o.cursor.Until = everything
	if _, err := s.request(ctx, tx, o); err != nil {
		return fmt.Errorf("request a backfill: %w", err)
	}
	return nil
}

// OpenBackfills returns the backfills of a subscription that are running and
// not complete.
func (s *Store) OpenBackfills(ctx context.Context, sub Subscription) ([]Operation, error) {
	all, err := s.operations(ctx, `
		SELECT `+operationColumns+` FROM reprise.operations
		WHERE kind = 'backfill' AND state = 'running' AND NOT complete ORDER BY id`)
	return slices.DeleteFunc(all, func(o Operation) bool {
		return o.Selection.Handler != sub.Handler || o.Selection.Topic != sub.Topic
	}), err
}

// topicOf returns the topic that a handler is subscribed to.
func (s *Store) topicOf(ctx context.Context, handler, topic string) (string, error) {
	var topics []string
	if err := s.db.SelectContext(ctx, &topics, s.db.SQL(`
		SELECT topic FROM reprise.subscriptions WHERE handler = $1 AND ($2 = '' OR topic = $2) ORDER BY topic`), handler, topic); err != nil {
		return "", fmt.Errorf("look for the topic of handler %q: %w", handler, err)
	}
	switch {
	case len(topics) == 0 && topic != "":
		return "", fmt.Errorf("handler %q has no subscription to topic %q: register it with the bus", handler, topic)
	case len(topics) == 0:
		return "", fmt.Errorf("no subscription for handler %q: register it with the bus", handler)
	case len(topics) > 1:
		return "", fmt.Errorf("handler %q is subscribed to the topics %q: say which", handler, topics)
	}
	return topics[0], nil
}

// takeEvents creates the runs of the next batch of events.
func (s *Store) takeEvents(ctx context.Context, tx *sqlx.Tx, o *Operation) error {
	last := struct {
		At sqldb.Time `db:"published_at"`
		ID string     `db:"id"`
	}{At: sqldb.Time{Time: o.cursor.Until}}
	err := tx.GetContext(ctx, &last, s.db.SQL(fmt.Sprintf(`
		SELECT e.published_at, e.id FROM reprise.events e
		WHERE (e.published_at, e.id) > ($1, $2) AND e.published_at < $3
		ORDER BY e.published_at, e.id LIMIT 1 OFFSET %d`, takeLook-1)), s.time(o.cursor.At), o.cursor.Event, s.time(o.cursor.Until))
	o.Complete = errors.Is(err, sql.ErrNoRows)
	if err != nil && !o.Complete {
		return err
	}
	// OFFSET keeps PostgreSQL from making the NOT EXISTS a join, for which it may
	// read all runs.
	result, err := tx.ExecContext(ctx, s.db.SQL(`
		INSERT INTO reprise.handler_runs (event_id, topic, handler, key, published_at, replay_id, due_at)
		SELECT e.id, e.topic, $1, e.key, e.published_at, CAST($3 AS bigint),
		       `+s.paced(`$3`, `(row_number() OVER (ORDER BY e.published_at, e.id) - 1) * CAST($2 AS float8)`)+`
		FROM reprise.events e
		WHERE e.topic = $4
		AND (e.published_at, e.id) > ($5, $6) AND (e.published_at, e.id) <= ($7, $8) AND e.published_at < $9
		AND NOT EXISTS (
			SELECT 1 FROM reprise.handler_runs r
			WHERE r.event_id = e.id AND r.topic = e.topic AND r.handler = $1 LIMIT 1 OFFSET 0)
		ON CONFLICT (event_id, topic, handler) DO NOTHING`),
		o.Selection.Handler, o.pace(), o.ID, o.Selection.Topic,
		s.time(o.cursor.At), o.cursor.Event, s.time(last.At.Time), last.ID, s.time(o.cursor.Until))
	if err != nil {
		return rowError(err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return err
	}
	o.Taken += n
	o.cursor.At, o.cursor.Event = last.At.Time, last.ID
	if err := s.moveOn(ctx, tx, o, n); err != nil || n == 0 {
		return err
	}
	return s.Notify(ctx, tx, "")
}
