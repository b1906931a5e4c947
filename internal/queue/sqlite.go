package queue

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// sqlite has one writer at a time. A single statement of PostgreSQL is here a short
// transaction, or a statement with a trigger (see migrations).
type sqlite struct{}

func (sqlite) insert(events []store.Event, _ LeaseOnInsert, _ bool) (string, []any) {
	args := make([]any, 0, 6*len(events))
	for _, e := range events {
		c := sqldb.Encode(e.Payload, e.Metadata)
		args = append(args, e.ID, e.Topic, e.Key, c.TextOrNull(), c.BytesOrNull(), c.Metadata)
	}
	return `INSERT INTO reprise.events AS was (id, topic, key, payload, payload_bytes, metadata)
		VALUES ` + sqldb.Placeholders(len(events), 6) + `
		ON CONFLICT (id, topic) DO UPDATE SET source = NULL -- which fails
		WHERE was.payload IS NOT excluded.payload OR was.payload_bytes IS NOT excluded.payload_bytes
		RETURNING id, topic, topic IN (SELECT s.topic FROM reprise.subscriptions s)`, args
}

// inserted does not know how many runs the trigger created.
func (sqlite) inserted(_ *Queue, rows *sql.Rows, _ []store.Event) (in Inserted, err error) {
	for rows.Next() {
		var id store.EventID
		var heard bool
		if err := rows.Scan(&id.ID, &id.Topic, &heard); err != nil {
			return in, err
		}
		in.IDs = append(in.IDs, id)
		if !heard {
			in.notHeard(id.Topic)
		}
	}
	in.Due = len(in.IDs)
	return in, rows.Err()
}

func (d sqlite) record(ctx context.Context, q *Queue, e store.Event, handler, instance string, again bool) (lease taken, err error) {
	c := sqldb.Encode(e.Payload, e.Metadata)
	err = q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		inserted, err := tx.ExecContext(ctx, q.db.SQL(`
			INSERT INTO reprise.events (id, topic, key, payload, payload_bytes, metadata, source)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id, topic) DO NOTHING`),
			e.ID, e.Topic, e.Key, c.TextOrNull(), c.BytesOrNull(), c.Metadata, e.Source)
		if err != nil {
			return err
		}
		fresh, err := inserted.RowsAffected()
		if err != nil {
			return err
		}
		if fresh == 0 {
			var row sqldb.EventRow
			if err := tx.GetContext(ctx, &row, q.db.SQL(`SELECT `+sqldb.EventColumns+` FROM reprise.events e WHERE e.id = $1 AND e.topic = $2`), e.ID, e.Topic); err != nil {
				return err
			}
			first, err := store.EventOf(row)
			if err != nil {
				return err
			}
			if as, other := another(e, first); other {
				return &takenError{as}
			}
		}
		lease, err = d.lease(ctx, q, tx, e.EventID(), handler, instance, again)
		return err
	})
	return lease, err
}

func (d sqlite) takeUp(ctx context.Context, q *Queue, e store.EventID, handler, instance string, again bool) (lease taken, err error) {
	err = q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		lease, err = d.lease(ctx, q, tx, e, handler, instance, again)
		return err
	})
	return lease, err
}

// lease leases the handler's run of an event to the instance: a new run, or an existing
// run for another attempt.
func (sqlite) lease(ctx context.Context, q *Queue, tx *sqlx.Tx, e store.EventID, handler, instance string, again bool) (lease taken, err error) {
	if _, err := tx.ExecContext(ctx, q.db.SQL(`
		INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, instance, started_at)
		SELECT id, attempt, cycle, 'abandoned', 'the message was delivered again before the handler had ended', instance, started_at
		FROM reprise.handler_runs
		WHERE event_id = $1 AND handler = $2 AND topic = $3 AND status = 'PENDING' AND due_at IS NULL`),
		e.ID, handler, e.Topic); err != nil {
		return lease, err
	}
	if err := tx.QueryRowxContext(ctx, q.db.SQL(`
		INSERT INTO reprise.handler_runs AS r (event_id, topic, handler, key, instance, attempt, tries, started_at, published_at)
		SELECT e.id, e.topic, $3, e.key, $4, 1, 1, now(), e.published_at FROM reprise.events e WHERE e.id = $1 AND e.topic = $2
		ON CONFLICT (event_id, topic, handler) DO UPDATE
		SET status = 'PENDING', attempt = r.attempt + 1, tries = 1, instance = excluded.instance,
		    started_at = now(), due_at = NULL, finished_at = NULL, failed_at = NULL
		WHERE r.status IN ('PENDING', 'FAILED') OR ($5 AND r.status = 'SUCCESS')
		RETURNING id, attempt, started_at, published_at, coalesce(replay_id, 0) AS replay_id,
		    coalesce(error_kind, '') AS error_kind, coalesce(error, '') AS error, coalesce(fingerprint, '') AS fingerprint`),
		e.ID, e.Topic, handler, instance, again).StructScan(&lease); err != nil {
		return lease, err
	}
	_, err = tx.ExecContext(ctx, q.db.SQL(`
		UPDATE reprise.instances SET lowest_run = min(lowest_run, $2), held_runs = json_insert(held_runs, '$[#]', $2) WHERE id = $1`),
		instance, lease.ID)
	return lease, err
}

func (sqlite) claim(ctx context.Context, q *Queue, by Claimant, wants []Want) ([]*Claimed, error) {
	// The read comes first, so that an idle process does not take the write lock.
	var due bool
	if err := q.db.GetContext(ctx, &due, q.db.SQL(`
		SELECT EXISTS (SELECT 1 FROM reprise.handler_runs WHERE due_at IS NOT NULL AND due_at <= now())`)); err != nil || !due {
		return nil, err
	}
	var leased []claimedRow
	err := q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		leased = nil
		for _, w := range wants {
			var rows []claimedRow
			err := tx.SelectContext(ctx, &rows, q.db.SQL(`
				UPDATE reprise.handler_runs
				SET instance = $1, attempt = attempt + 1, tries = tries + 1, started_at = now(), due_at = NULL
				WHERE id IN (
					SELECT id FROM reprise.handler_runs
					WHERE topic = $2 AND handler = $3 AND due_at IS NOT NULL AND due_at <= now()
					ORDER BY due_at, id
					LIMIT $4
				) AND EXISTS (SELECT 1 FROM reprise.instances WHERE id = $1 AND claims = $5)
				RETURNING id AS run_id, event_id, topic, handler, attempt, tries, cycle, `+leasedColumns), by.Instance, w.Topic, w.Handler, w.N, by.Claims)
			if err != nil {
				return err
			}
			leased = append(leased, rows...)
		}
		if len(leased) == 0 {
			return nil
		}
		held, lowest := slices.Clone(by.Held), leased[0].RunID
		for _, l := range leased {
			held, lowest = append(held, l.RunID), min(lowest, l.RunID)
		}
		if _, err := tx.ExecContext(ctx, q.db.SQL(`
			UPDATE reprise.instances SET claims = claims + 1, lowest_run = min(lowest_run, $2), held_runs = $3 WHERE id = $1`),
			by.Instance, lowest, q.db.IDs(held)); err != nil {
			return err
		}
		return q.fillEvents(ctx, tx, leased)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(leased, func(a, b claimedRow) int { return cmp.Compare(a.RunID, b.RunID) })
	claimed := make([]*Claimed, len(leased))
	for i := range leased {
		claimed[i] = leased[i].claimed(by.Instance)
	}
	return claimed, nil
}

// fillEvents reads the events of the leased runs.
func (q *Queue) fillEvents(ctx context.Context, tx *sqlx.Tx, leased []claimedRow) error {
	type key struct{ topic, id string }
	found := make(map[key]sqldb.EventRow, len(leased))
	for chunk := range slices.Chunk(leased, 1000) {
		ids := make([]any, len(chunk))
		for i, l := range chunk {
			ids[i] = l.ID
		}
		var events []sqldb.EventRow
		if err := tx.SelectContext(ctx, &events,
			q.db.SQL(`SELECT `+sqldb.EventColumns+` FROM reprise.events e WHERE e.id IN `)+sqldb.Placeholders(1, len(ids)), ids...); err != nil {
			return err
		}
		for _, e := range events {
			found[key{e.Topic, e.ID}] = e
		}
	}
	for i, l := range leased {
		e, ok := found[key{l.Topic, l.ID}]
		if !ok {
			leased[i].Lost = true
			continue
		}
		e.Payload, e.PayloadBytes = bytes.Clone(e.Payload), bytes.Clone(e.PayloadBytes) // a copy for each handler
		leased[i].EventRow = e
	}
	return nil
}

func (sqlite) end(ctx context.Context, q *Queue, outcomes []Outcome) ([]Lease, error) {
	ended := make([]Lease, 0, len(outcomes))
	err := q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		ended = ended[:0]
		for _, o := range outcomes {
			held, err := q.endOne(ctx, tx, o)
			if err != nil {
				return err
			}
			if held {
				ended = append(ended, o.Lease)
			}
		}
		return nil
	})
	return ended, err
}

func (q *Queue) endOne(ctx context.Context, tx *sqlx.Tx, o Outcome) (held bool, err error) {
	var f store.Failure
	if o.Failure != nil {
		f = *o.Failure
	}
	written, err := tx.ExecContext(ctx, q.db.SQL(`
		UPDATE reprise.handler_runs
		SET status = $4,
		    tries = CASE WHEN $7 THEN 0 ELSE tries - $6 END,
		    cycle = cycle + $7,
		    instance = CASE WHEN $4 <> 'PENDING' THEN instance END,
		    due_at = CASE WHEN $4 = 'PENDING' THEN now($5) END,
		    finished_at = CASE WHEN $4 <> 'PENDING' THEN now() END,
		    failed_at = CASE WHEN $4 = 'FAILED' THEN now() END,
		    error_kind = CASE WHEN $8 <> '' THEN $8 WHEN $4 = 'PENDING' THEN error_kind END,
		    error = CASE WHEN $8 <> '' THEN $9 WHEN $4 = 'PENDING' THEN error END,
		    fingerprint = CASE WHEN $8 <> '' THEN nullif($10, '') WHEN $4 = 'PENDING' THEN fingerprint END
		WHERE id = $1 AND instance = $2 AND attempt = $3 AND status = 'PENDING'`),
		o.Lease.RunID, o.Lease.Instance, o.Lease.Attempt, string(o.Status), o.Delay.Round(time.Millisecond).Seconds(), o.Refund, o.NextCycle,
		string(f.Kind), f.Message, f.Fingerprint)
	if err != nil {
		return false, err
	}
	if n, err := written.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	for i, f := range []*store.Failure{o.Failure, o.Callback} {
		if f == nil || i == 0 && o.OnRecord {
			continue
		}
		if _, err := tx.ExecContext(ctx, q.db.SQL(`
			INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, stack, instance, started_at)
			SELECT id, $2, cycle - $7, $3, $4, nullif($5, ''), $6, started_at FROM reprise.handler_runs WHERE id = $1`),
			o.Lease.RunID, o.Lease.Attempt, string(f.Kind), f.Message, f.Stack, o.Lease.Instance, o.NextCycle); err != nil {
			return false, err
		}
	}
	return true, nil
}
