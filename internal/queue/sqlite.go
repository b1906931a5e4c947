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

func (sqlite) insert(db *sqldb.DB, events []store.Event, _ LeaseOnInsert, _ bool) (string, []any) {
	args := make([]any, 0, 6*len(events))
	for _, e := range events {
		c := sqldb.Encode(e.Payload, e.Metadata)
		args = append(args, e.ID, e.Topic, e.Key, c.TextOrNull(), c.BytesOrNull(), c.Metadata)
	}
	return sqldb.Rows(db.SQL(insertSQLite), len(events)), args
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
		inserted, err := tx.ExecContext(ctx, q.db.SQL(recordEventSQLite), e.ID, e.Topic, e.Key, c.TextOrNull(), c.BytesOrNull(), c.Metadata, e.Source)
		if err != nil {
			return err
		}
		fresh, err := inserted.RowsAffected()
		if err != nil {
			return err
		}
		if fresh == 0 {
			var row sqldb.EventRow
			if err := tx.GetContext(ctx, &row, q.db.SQL(knownEventSQLite), e.ID, e.Topic); err != nil {
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
	if _, err := tx.ExecContext(ctx, q.db.SQL(abandonSQLite), e.ID, e.Topic, handler); err != nil {
		return lease, err
	}
	if err := tx.QueryRowxContext(ctx, q.db.SQL(takeUpSQLite), e.ID, e.Topic, handler, instance, again).StructScan(&lease); err != nil {
		return lease, err
	}
	_, err = tx.ExecContext(ctx, q.db.SQL(holdSQLite), instance, lease.ID)
	return lease, err
}

func (sqlite) claim(ctx context.Context, q *Queue, by Claimant, wants []Want) ([]*Claimed, error) {
	// The read comes first, so that an idle process does not take the write lock.
	var due bool
	if err := q.db.GetContext(ctx, &due, q.db.SQL(anyDueSQLite)); err != nil || !due {
		return nil, err
	}
	var leased []claimedRow
	err := q.db.InTx(ctx, func(tx *sqlx.Tx) error {
		leased = nil
		for _, w := range wants {
			var rows []claimedRow
			err := tx.SelectContext(ctx, &rows, q.db.SQL(claimSQLite), by.Instance, w.Topic, w.Handler, w.N, by.Claims)
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
		if _, err := tx.ExecContext(ctx, q.db.SQL(countClaimSQLite), by.Instance, lowest, q.db.IDs(held)); err != nil {
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
		ids := make([]string, len(chunk))
		for i, l := range chunk {
			ids[i] = l.ID
		}
		var events []sqldb.EventRow
		if err := tx.SelectContext(ctx, &events, q.db.SQL(claimedEventsSQLite), q.db.Texts(ids)); err != nil {
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
	written, err := tx.ExecContext(ctx, q.db.SQL(endOneSQLite),
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
		if _, err := tx.ExecContext(ctx, q.db.SQL(attemptSQLite),
			o.Lease.RunID, o.Lease.Attempt, string(f.Kind), f.Message, f.Stack, o.Lease.Instance, o.NextCycle); err != nil {
			return false, err
		}
	}
	return true, nil
}
