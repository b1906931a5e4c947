package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Subscription makes a handler get a run for each event of a topic that is
// published from then on.
type Subscription struct {
	Topic   string
	Handler string
}

// Compare orders subscriptions by topic, then by handler.
func (sub Subscription) Compare(other Subscription) int {
	return cmp.Or(cmp.Compare(sub.Topic, other.Topic), cmp.Compare(sub.Handler, other.Handler))
}

// Validate reports a name that the database would not keep as it is.
func (sub Subscription) Validate() error {
	if err := validName("handler", sub.Handler); err != nil {
		return err
	}
	if err := validName("topic", sub.Topic); err != nil {
		return fmt.Errorf("handler %q: %w", sub.Handler, err)
	}
	return nil
}

// Execer is a pool, a connection or a transaction.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Subscribe puts a subscription into the database, idempotently, with its
// handler's policy as JSON ("" is "{}") for whoever reads the tables. It stays
// there until somebody removes it (Unsubscribe), served or not.
func (s *Store) Subscribe(ctx context.Context, sub Subscription, policy string) error {
	_, err := s.subscribe(ctx, s.db, sub, policy, `DO UPDATE SET policy = excluded.policy, last_seen_at = now()`)
	return err
}

// SubscribeTx does it in a transaction of the caller's, and says whether the
// subscription is new. It neither changes nor locks one that is there already:
// publishers must not wait for each other's transactions.
func (s *Store) SubscribeTx(ctx context.Context, tx Execer, sub Subscription, policy string) (fresh bool, err error) {
	if err := s.bePatient(ctx, tx); err != nil {
		return false, err
	}
	return s.subscribe(ctx, tx, sub, policy, `DO NOTHING`)
}

func (s *Store) subscribe(ctx context.Context, db Execer, sub Subscription, policy, known string) (written bool, err error) {
	if err := sub.Validate(); err != nil {
		return false, err
	}
	result, err := db.ExecContext(ctx, s.sql(`
		INSERT INTO reprise.subscriptions (topic, handler, policy) VALUES ($1, $2, $3)
		ON CONFLICT (topic, handler) `+known), sub.Topic, sub.Handler, cmp.Or(policy, "{}"))
	if err != nil {
		return false, fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// Unsubscribe removes a subscription, or returns ErrNotFound: no event that is
// published from then on gets a run of the handler, unless a process registers
// it again. Its runs stay as they are; those that wait, wait for ever, or until
// somebody discards them.
func (s *Store) Unsubscribe(ctx context.Context, sub Subscription) error {
	result, err := s.db.ExecContext(ctx, s.sql(`DELETE FROM reprise.subscriptions WHERE topic = $1 AND handler = $2`), sub.Topic, sub.Handler)
	if err != nil {
		return fmt.Errorf("unsubscribe handler %q from topic %q: %w", sub.Handler, sub.Topic, err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, fmt.Errorf("unsubscribe handler %q from topic %q: %w", sub.Handler, sub.Topic, ErrNotFound))
	}
	return nil
}
