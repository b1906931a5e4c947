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

// A publish creates runs for the subscriptions that its statement sees. On
// PostgreSQL it does not see one that is committed while its transaction is open:
// when the statement came first, or when the transaction reads by a snapshot that
// is older (REPEATABLE READ, SERIALIZABLE). What such a transaction publishes is
// committed after the subscription, and gets its runs by Settle.
//
// A subscription remembers which transactions were open (open_then), and that all
// others got their ids later. It is settled when all
// transactions have ended that were open when somebody looked first. No publish
// does anything for that.

// openThen is what a new subscription remembers. Open transactions are found by
// their locks; subtransactions that were released, whose locks are gone, by the
// status of each id since the oldest that is open, but no more than two million.
// The earliest time that an event of theirs bears is when the oldest began, or
// unknown where this role may not see it.
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

// openNow are the transactions that are open in this database: sessions by their
// virtual ids, which every role may see, and then prepared ones.
const openNow = `
		SELECT l.virtualxid AS id FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid AND a.datname = current_database()
		WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
		UNION ALL SELECT CAST(transaction AS text) FROM pg_prepared_xacts WHERE database = current_database()`

// look notes in a subscription, which is committed, what it waits for: at the first
// look everything that is open, and later what is left of that. PREPARE TRANSACTION
// takes the virtual id away. So the transaction ids of the sessions that are waited
// for are noted too, as far as they have one; and where something has ended since the
// last look, what was prepared since then may be it.
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

// Settle creates the runs that transactions owe to a subscription which were open
// when it was committed, as far as they have ended. It returns "" when all have, and
// how many runs it made.
//
// Otherwise it returns what is still open: passed to the next call, that does
// nothing until one of them has ended. Any number of callers may do so at once. On
// SQLite, which has one writer at a time, no subscription is ever unsettled.
func (q *Queue) Settle(ctx context.Context, sub store.Subscription, open string) (still string, created int64, err error) {
	if q.db.Kind() == dialect.SQLite || !sqldb.Keepable(sub.Topic, sub.Handler) {
		return "", 0, nil
	}
	var unsettled bool // a look without a lock: next to always it is all
	if err := q.db.GetContext(ctx, &unsettled, q.db.SQL(`
		SELECT EXISTS (SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2 AND open_then IS NOT NULL)`),
		sub.Topic, sub.Handler); err != nil || !unsettled {
		return "", 0, q.settling(sub, err)
	}
	err = q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		still, created = "", 0
		// One at a time: what is read of the subscription is what the last look left.
		if _, err := tx.ExecContext(ctx, q.db.SQL(`SELECT 1 FROM reprise.subscriptions WHERE topic = $1 AND handler = $2 FOR UPDATE`), sub.Topic, sub.Handler); err != nil {
			return err
		}
		err := tx.GetContext(ctx, &still, q.db.SQL(look), sub.Topic, sub.Handler)
		if errors.Is(err, sql.ErrNoRows) { // somebody else was first
			return nil
		}
		if err != nil {
			return err
		}
		if still == "[]" {
			still = ""
		}
		if still != "" && still == open {
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

// before compares a transaction id, which has 32 bits, with a bound that has all of
// them: as PostgreSQL does, half of the ids are before it.
func before(xid, bound string) string {
	return `((CAST(CAST(` + xid + ` AS text) AS bigint) - ` + bound + ` % 4294967296 + 6442450944) % 4294967296 - 2147483648 < 0)`
}
