package store

import (
	"cmp"
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
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
	if err := ValidTopic(sub.Topic); err != nil {
		return fmt.Errorf("handler %.255q: %w", sub.Handler, err)
	}
	return nil
}

// validate reports a policy that the database would not keep, too.
func (sub Subscription) validate(policy string) error {
	if policy != "" && !isJSON([]byte(policy)) {
		return fmt.Errorf("handler %.255q: policy %.255q: want JSON in UTF-8, or nothing", sub.Handler, policy)
	}
	return sub.Validate()
}

// Subscribe puts a subscription into the database, idempotently, with its
// handler's policy as JSON ("" is "{}") for whoever reads the tables. It stays
// there until somebody removes it (Unsubscribe), served or not. See Settle.
func (s *Store) Subscribe(ctx context.Context, sub Subscription, policy string) error {
	if err := sub.validate(policy); err != nil {
		return err
	}
	result, err := s.db.ExecContext(ctx, s.db.SQL(`
		UPDATE reprise.subscriptions SET policy = $3, last_seen_at = now() WHERE topic = $1 AND handler = $2`),
		sub.Topic, sub.Handler, cmp.Or(policy, "{}"))
	if err != nil {
		return fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return err
	}
	_, err = s.subscribe(ctx, s.db, sub, policy, `DO UPDATE SET policy = excluded.policy, last_seen_at = now()`)
	return err
}

// SubscribeTx does it in a transaction of the caller's, and says whether the
// subscription is new. It neither changes nor locks one that is there already:
// publishers must not wait for each other's transactions.
func (s *Store) SubscribeTx(ctx context.Context, tx interface {
	sqldb.Queryer
	sqldb.Execer
}, sub Subscription, policy string) (fresh bool, err error) {
	if err := sub.validate(policy); err != nil {
		return false, err
	}
	if s.db.Kind() == dialect.SQLite { // whose transactions had better not read before they write
		if err := s.db.SetBusyTimeout(ctx, tx); err != nil {
			return false, err
		}
		return s.subscribe(ctx, tx, sub, policy, `DO NOTHING`)
	}
	var there bool
	if err := s.db.QueryRow(ctx, tx, s.db.SQL(`SELECT EXISTS (SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2)`),
		[]any{sub.Topic, sub.Handler}, &there); err != nil {
		return false, fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
	}
	if there {
		return false, nil
	}
	return s.subscribe(ctx, tx, sub, policy, `DO NOTHING`)
}

func (s *Store) subscribe(ctx context.Context, db sqldb.Execer, sub Subscription, policy, known string) (written bool, err error) {
	open := `NULL`
	if s.db.Kind() == dialect.Postgres {
		open = openThen
	}
	result, err := db.ExecContext(ctx, s.db.SQL(`
		INSERT INTO reprise.subscriptions (topic, handler, policy, open_then) VALUES ($1, $2, $3, `+open+`)
		ON CONFLICT (topic, handler) `+known), sub.Topic, sub.Handler, cmp.Or(policy, "{}"))
	if err != nil {
		return false, fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// SubscriptionKeys returns all subscriptions there are.
func (s *Store) SubscriptionKeys(ctx context.Context) (map[Subscription]bool, error) {
	var rows []struct {
		Topic   string `db:"topic"`
		Handler string `db:"handler"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`SELECT topic, handler FROM reprise.subscriptions`)); err != nil {
		return nil, fmt.Errorf("list subscriptions: %w", err)
	}
	keys := make(map[Subscription]bool, len(rows))
	for _, r := range rows {
		keys[Subscription(r)] = true
	}
	return keys, nil
}

// Unsubscribe removes a subscription, or returns ErrNotFound: no event that is
// published from then on gets a run of the handler, unless a process registers
// it again. Its runs stay as they are; those that wait, wait for ever, or until
// somebody discards them. An Action says who has done it.
func (s *Store) Unsubscribe(ctx context.Context, sub Subscription, by By) error {
	fail := func(err error) error {
		return fmt.Errorf("unsubscribe handler %.255q from topic %.255q: %w", sub.Handler, sub.Topic, err)
	}
	if err := by.validate(); err != nil {
		return fail(err)
	}
	if !keepable(sub.Topic, sub.Handler) {
		return fail(ErrNotFound)
	}
	if err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		n, err := s.db.Change(ctx, tx, s.db.SQL(`DELETE FROM reprise.subscriptions WHERE topic = $1 AND handler = $2`), sub.Topic, sub.Handler)
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		_, err = s.act(ctx, tx, Action{Kind: Removing, Handler: sub.Handler, Topic: sub.Topic, By: by})
		return err
	}); err != nil {
		return fail(err)
	}
	return nil
}
