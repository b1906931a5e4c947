package operate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// RequestBackfill records that a handler gets runs for the past events of its topic for
// which it has none. It returns the operation with ID, Total and RequestedAt. The
// selection may set only Handler, Topic, Since and Until; Topic may be empty if the
// handler has one topic. Take creates the runs later, the oldest event first.
func (s *Operator) RequestBackfill(ctx context.Context, asked store.Operation) (store.Operation, error) {
	o, err := s.backfill(ctx, asked)
	if err != nil {
		return o.Operation, err
	}
	if err := s.request(ctx, s.db.Pool(), &o); err != nil {
		return o.Operation, fmt.Errorf("request a backfill: %w", err)
	}
	return o.Operation, nil
}

// PreviewBackfill returns the operation that RequestBackfill would record, with its
// topic and Total. It changes nothing.
func (s *Operator) PreviewBackfill(ctx context.Context, asked store.Operation) (store.Operation, error) {
	o, err := s.backfill(ctx, asked)
	return o.Operation, err
}

func (s *Operator) backfill(ctx context.Context, asked store.Operation) (operation, error) {
	o := operation{Operation: asked}
	o.Kind = store.Backfilling
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
	fail := func(err error) (operation, error) { return o, fmt.Errorf("count the events of a backfill: %w", err) }
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
			LIMIT %d) e`, store.TotalCount)), o.Selection.Topic, s.db.Time(o.cursor.At), s.db.Time(o.cursor.Until), f.Handler); err != nil {
		return fail(err)
	}
	o.Total.More = o.Total.N == store.TotalCount
	return o, nil
}

// everything is the end of a backfill without Until: it takes every event that it
// finds. No moment separates the past from the future, because an event bears the time
// at which its transaction began, by a clock that may be set back. An event that has
// its run already is passed over.
var everything = store.FarAway

// SubscribeFromBeginning is Subscribe for a handler that, if it is new, also gets the
// past events of its topic: a backfill is recorded together with the subscription.
func (s *Operator) SubscribeFromBeginning(ctx context.Context, sub store.Subscription, policy string) error {
	err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		fresh, err := queue.Of(s.record).SubscribeTx(ctx, tx, sub, policy)
		if err != nil || !fresh {
			return err
		}
		return s.RequestPast(ctx, tx, sub)
	})
	if err != nil {
		return err
	}
	return queue.Of(s.record).Subscribe(ctx, sub, policy)
}

// RequestPast records a backfill of all past events, in the transaction that creates
// the subscription. Its Total is unknown.
func (s *Operator) RequestPast(ctx context.Context, tx sqldb.Queryer, sub store.Subscription) error {
	o := operation{Operation: store.Operation{
		Kind: store.Backfilling, RequestedBy: sub.Handler, Reason: "the handler is new, and begins with the beginning",
		Selection: store.Filter{Handler: sub.Handler, Topic: sub.Topic},
	}}
	o.cursor.Until = everything
	if err := s.request(ctx, tx, &o); err != nil {
		return fmt.Errorf("request a backfill: %w", err)
	}
	return nil
}

// topicOf returns the topic to which a handler is subscribed.
func (s *Operator) topicOf(ctx context.Context, handler, topic string) (string, error) {
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
func (s *Operator) takeEvents(ctx context.Context, tx *sqlx.Tx, o *operation) error {
	last := struct {
		At sqldb.Time `db:"published_at"`
		ID string     `db:"id"`
	}{At: sqldb.Time{Time: o.cursor.Until}}
	err := tx.GetContext(ctx, &last, s.db.SQL(fmt.Sprintf(`
		SELECT e.published_at, e.id FROM reprise.events e
		WHERE (e.published_at, e.id) > ($1, $2) AND e.published_at < $3
		ORDER BY e.published_at, e.id LIMIT 1 OFFSET %d`, takeLook-1)), s.db.Time(o.cursor.At), o.cursor.Event, s.db.Time(o.cursor.Until))
	o.Complete = errors.Is(err, sql.ErrNoRows)
	if err != nil && !o.Complete {
		return err
	}
	result, err := tx.ExecContext(ctx, s.db.Either(backfillPostgres, backfillSQLite),
		o.Selection.Handler, o.pace(), o.ID, o.Selection.Topic,
		s.db.Time(o.cursor.At), o.cursor.Event, s.db.Time(last.At.Time), last.ID, s.db.Time(o.cursor.Until))
	if err != nil {
		return sqldb.RowError(err)
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
	return s.db.Notify(ctx, tx, "")
}
