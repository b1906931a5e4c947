package queue

import (
	"cmp"
	"context"
	"fmt"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// validate also reports a policy that the database could not store.
func validate(sub store.Subscription, policy string) error {
	if policy != "" && !sqldb.IsJSON([]byte(policy)) {
		return fmt.Errorf("handler %.255q: policy %.255q: want JSON in UTF-8, or nothing", sub.Handler, policy)
	}
	return sub.Validate()
}

// Subscribe writes a subscription and its handler's policy as JSON ("" is "{}"). It is
// idempotent. The subscription stays, served or not, until Unsubscribe. A new subscription
// is settled at once if no transaction is open. Otherwise Settle creates the runs of the
// open transactions.
func (q *Queue) Subscribe(ctx context.Context, sub store.Subscription, policy string) error {
	if err := validate(sub, policy); err != nil {
		return err
	}
	result, err := q.db.ExecContext(ctx, q.db.SQL(updateSubscription), sub.Topic, sub.Handler, cmp.Or(policy, "{}"))
	if err != nil {
		return fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return err
	}
	if _, err := q.subscribe(ctx, q.db, q.db.Either(subscribePostgres, subscribeSQLite), sub, policy); err != nil {
		return err
	}
	// Now is the cheapest moment: no event has been published for the subscription yet. On
	// an error the subscription stays unsettled, and a process that serves it calls Settle.
	_, _, _ = q.settle(ctx, sub, func(still string) bool { return still == "" })
	return nil
}

// SubscribeTx is Subscribe in the caller's transaction. It reports whether the
// subscription is new. It neither changes nor locks an existing subscription, so that
// publishers do not wait for each other's transactions.
func (q *Queue) SubscribeTx(ctx context.Context, tx interface {
	sqldb.Queryer
	sqldb.Execer
}, sub store.Subscription, policy string) (fresh bool, err error) {
	if err := validate(sub, policy); err != nil {
		return false, err
	}
	if q.db.Kind() == dialect.SQLite { // a transaction on SQLite should write before it reads
		if err := q.db.SetBusyTimeout(ctx, tx); err != nil {
			return false, err
		}
		return q.subscribe(ctx, tx, q.db.SQL(subscribeTxSQLite), sub, policy)
	}
	var there bool
	if err := q.db.QueryRow(ctx, tx, q.db.SQL(hasSubscription), []any{sub.Topic, sub.Handler}, &there); err != nil {
		return false, fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
	}
	if there {
		return false, nil
	}
	return q.subscribe(ctx, tx, q.db.SQL(subscribeTxPostgres), sub, policy)
}

func (q *Queue) subscribe(ctx context.Context, db sqldb.Execer, statement string, sub store.Subscription, policy string) (written bool, err error) {
	result, err := db.ExecContext(ctx, statement, sub.Topic, sub.Handler, cmp.Or(policy, "{}"))
	if err != nil {
		return false, fmt.Errorf("subscribe handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
	}
	n, err := result.RowsAffected()
	return n > 0, err
}
