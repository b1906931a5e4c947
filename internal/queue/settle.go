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

// openThen is what a new subscription stores. Open transactions are found by their locks.
// Released subtransactions have no locks; they are found by the status of each id since
// the oldest open one, at most 2,000,000 ids. An event of an open transaction is at most
// as old as the oldest of them; "from" is NULL where this role may not see that time.
const openThen = `(
		SELECT json_build_object(
			'next', CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint),
			'open', (SELECT coalesce(json_agg(o.xid), '[]') FROM (
				SELECT CAST(CAST(transactionid AS text) AS bigint) AS xid
				FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
				UNION
				SELECT x % 4294967296 FROM (
					SELECT CAST(CAST(pg_snapshot_xmin(s) AS text) AS bigint) AS oldest, CAST(CAST(pg_snapshot_xmax(s) AS text) AS bigint) AS next
					FROM pg_current_snapshot() s) s, generate_series(greatest(s.oldest, s.next - 2000000), s.next - 1) x
				WHERE pg_xact_status(CAST(CAST(x AS text) AS xid8)) = 'in progress') o),
			'from', CASE WHEN EXISTS (SELECT 1 FROM pg_prepared_xacts WHERE database = current_database()) OR bool_or(xact_start IS NULL)
			        THEN NULL ELSE least(min(xact_start), now()) - interval '1 minute' END) -- as far as a clock may be set back
		FROM pg_stat_activity a
		WHERE datname = current_database() AND pid <> pg_backend_pid()
		AND EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock'))`

// openNow selects the open transactions in this database: those of sessions by their virtual
// ids, which every role may see, and prepared ones.
const openNow = `
		SELECT l.virtualxid AS id FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid AND a.datname = current_database()
		WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
		UNION ALL SELECT CAST(transaction AS text) FROM pg_prepared_xacts WHERE database = current_database()`

// look writes into a committed subscription which transactions it waits for: at the first
// look all open ones, later those that are left. PREPARE TRANSACTION takes the virtual id
// away. Therefore look also stores the transaction ids of these sessions, if they have one.
// When a transaction has ended since the last look, a transaction that was prepared since
// then may be the same one.
const look = `
		WITH open AS MATERIALIZED (` + openNow + `
		), waited AS MATERIALIZED (
			SELECT w.id FROM reprise.subscriptions s, json_array_elements_text(s.open_then -> 'waits') w (id)
			WHERE s.topic = $1 AND s.handler = $2
		), left_over AS (
			SELECT id FROM open WHERE id IN (SELECT id FROM waited)
			UNION
			SELECT CAST(x.transactionid AS text) FROM pg_locks v JOIN pg_locks x ON x.pid = v.pid AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'
			WHERE v.locktype = 'virtualxid' AND v.mode = 'ExclusiveLock' AND v.virtualxid IN (SELECT id FROM waited)
			UNION
			SELECT CAST(p.transaction AS text) FROM pg_prepared_xacts p, reprise.subscriptions s
			WHERE p.database = current_database() AND s.topic = $1 AND s.handler = $2
			AND p.prepared >= CAST(s.open_then ->> 'looked' AS timestamptz) - interval '1 minute' -- as far as a clock may be set back
			AND EXISTS (SELECT id FROM waited EXCEPT SELECT id FROM open)
		)
		UPDATE reprise.subscriptions
		SET open_then = (CAST(open_then AS jsonb) || jsonb_build_object(
			'waits', CASE WHEN open_then -> 'waits' IS NULL THEN (SELECT coalesce(jsonb_agg(id ORDER BY id), '[]') FROM open)
			         ELSE (SELECT coalesce(jsonb_agg(id ORDER BY id), '[]') FROM left_over) END,
			'until', coalesce(CAST(open_then ->> 'until' AS timestamptz), clock_timestamp() + interval '1 minute'),
			'looked', clock_timestamp()))::json
		WHERE topic = $1 AND handler = $2 AND open_then IS NOT NULL
		RETURNING open_then ->> 'waits'`

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
	if err := q.db.GetContext(ctx, &unsettled, q.db.SQL(`
		SELECT EXISTS (SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2 AND open_then IS NOT NULL)`),
		sub.Topic, sub.Handler); err != nil || !unsettled {
		return "", 0, q.settling(sub, err)
	}
	err = q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		still, created = "", 0
		// The lock lets one caller look at a time, so that each reads the result of the last look.
		if _, err := tx.ExecContext(ctx, q.db.SQL(`SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2 FOR UPDATE`), sub.Topic, sub.Handler); err != nil {
			return err
		}
		err := tx.GetContext(ctx, &still, q.db.SQL(look), sub.Topic, sub.Handler)
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
		result, err := tx.ExecContext(ctx, q.db.SQL(`
			INSERT INTO reprise.handler_runs (event_id, topic, handler, key, published_at, due_at)
			SELECT e.id, e.topic, s.handler, e.key, e.published_at, now()
			FROM reprise.subscriptions s
			JOIN reprise.events e ON e.topic = s.topic
			WHERE s.topic = $1 AND s.handler = $2 AND e.source = 'publish'
			AND e.published_at >= coalesce(CAST(s.open_then ->> 'from' AS timestamptz), '-infinity')
			AND e.published_at < CAST(s.open_then ->> 'until' AS timestamptz)
			AND (NOT `+before(`e.xmin`, `CAST(s.open_then ->> 'next' AS bigint)`)+` OR CAST(CAST(e.xmin AS text) AS bigint) IN (
				SELECT CAST(o AS bigint) FROM json_array_elements_text(s.open_then -> 'open') o))
			AND NOT EXISTS (SELECT 1 FROM reprise.handler_runs r WHERE r.event_id = e.id AND r.topic = e.topic AND r.handler = s.handler)
			ORDER BY e.published_at, e.id
			ON CONFLICT (event_id, topic, handler) DO NOTHING`), sub.Topic, sub.Handler)
		if err != nil {
			return err
		}
		if created, err = result.RowsAffected(); err != nil {
			return err
		}
		if still == "" {
			if _, err := tx.ExecContext(ctx, q.db.SQL(`
				UPDATE reprise.subscriptions SET open_then = NULL WHERE topic = $1 AND handler = $2`), sub.Topic, sub.Handler); err != nil {
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

// before returns the condition that a transaction id of 32 bits is before a bound of 64
// bits. As in PostgreSQL, half of all ids are before the bound.
func before(xid, bound string) string {
	return `((CAST(CAST(` + xid + ` AS text) AS bigint) - ` + bound + ` % 4294967296 + 6442450944) % 4294967296 - 2147483648 < 0)`
}
