package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// A publish creates runs for the subscriptions that its statement sees. On PostgreSQL, the
// statement may miss a subscription that is committed while the publish's transaction is
// open: the statement came first, or the transaction reads by an older snapshot
// (REPEATABLE READ, SERIALIZABLE). The events of such a transaction are committed after the
// subscription. Settle creates their runs.
//
// A new subscription stores the transactions that are open (open_then); all others get
// their ids later. The subscription is settled when every transaction has ended that was
// open at the first look. A publish does no work for this.

// Settle creates the runs for the events of transactions that were open when the
// subscription was committed and have ended since. It returns the number of new runs, and
// "" in still when all these transactions have ended.
//
// Otherwise still lists the open transactions. Pass it to the next call: that call creates
// nothing until one of them has ended. Any number of callers may call Settle at once. On
// SQLite, which has one writer at a time, every subscription is settled.
func (q *Queue) Settle(ctx context.Context, sub store.Subscription, open string) (still string, created int64, err error) {
	return q.settle(ctx, sub, func(still string) bool { return still == "" || still != open })
}

// settle is Settle. It reads the events only if worth says so of the transactions that are
// still open: it reads all events of the topic since the oldest of these transactions began.
func (q *Queue) settle(ctx context.Context, sub store.Subscription, worth func(still string) bool) (still string, created int64, err error) {
	if q.db.Kind() == dialect.SQLite || !sqldb.Keepable(sub.Topic, sub.Handler) {
		return "", 0, nil
	}
	var unsettled bool // a read without a lock; almost always it suffices
	if err := q.db.GetContext(ctx, &unsettled, q.db.SQL(isUnsettledPostgres), sub.Topic, sub.Handler); err != nil || !unsettled {
		return "", 0, q.settling(sub, err)
	}
	err = q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		still, created = "", 0
		if _, err := tx.ExecContext(ctx, q.db.SQL(lockSubscriptionPostgres), sub.Topic, sub.Handler); err != nil {
			return err
		}
		err := tx.GetContext(ctx, &still, q.db.SQL(lookPostgres), sub.Topic, sub.Handler)
		if errors.Is(err, sql.ErrNoRows) { // another caller was first
			return nil
		}
		if err != nil {
			return err
		}
		if still == "[]" {
			still = ""
		}
		if !worth(still) {
			return nil
		}
		result, err := tx.ExecContext(ctx, q.db.SQL(settlePostgres), sub.Topic, sub.Handler)
		if err != nil {
			return err
		}
		if created, err = result.RowsAffected(); err != nil {
			return err
		}
		if still == "" {
			if _, err := tx.ExecContext(ctx, q.db.SQL(settledPostgres), sub.Topic, sub.Handler); err != nil {
				return err
			}
		}
		if created == 0 {
			return nil
		}
		return q.db.Notify(ctx, tx, "")
	})
	return still, created, q.settling(sub, err)
}

func (q *Queue) settling(sub store.Subscription, err error) error {
	if err != nil {
		return fmt.Errorf("settle the subscription of handler %q to topic %q: %w", sub.Handler, sub.Topic, err)
	}
	return nil
}
