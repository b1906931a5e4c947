package queue

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// postgres sends batches as arrays, so that the text of a statement does not depend on
// the size of the batch.
type postgres struct{}

func wantArrays(wants []Want) (topics, handlers pq.StringArray, ns pq.Int64Array) {
	topics, handlers, ns = make(pq.StringArray, len(wants)), make(pq.StringArray, len(wants)), make(pq.Int64Array, len(wants))
	for i, w := range wants {
		topics[i], handlers[i], ns[i] = w.Topic, w.Handler, int64(w.N)
	}
	return topics, handlers, ns
}

func (p postgres) record(ctx context.Context, q *Queue, e store.Event, handler, instance string, again bool) (taken, error) {
	lease, err := p.recordNew(ctx, q, e, handler, instance)
	if !errors.Is(err, sql.ErrNoRows) {
		return lease, err
	}
	// The event is known. Either its run exists, too, or another event has the id.
	first, err := q.record.Event(ctx, e.Topic, e.ID)
	if err != nil {
		return taken{}, err
	}
	if as, other := another(e, first); other {
		return taken{}, &takenError{as}
	}
	lease, err = p.takeUp(ctx, q, e.EventID(), handler, instance, again)
	if errors.Is(err, sql.ErrNoRows) && !e.Declared { // no run exists yet, and the metadata differs only in incidental fields
		e.Declared = true
		lease, err = p.recordNew(ctx, q, e, handler, instance)
	}
	return lease, err
}

// recordNew records a new run of an event that is new or known with the same payload
// and, unless it is Declared, the same metadata.
func (postgres) recordNew(ctx context.Context, q *Queue, e store.Event, handler, instance string) (lease taken, err error) {
	c := sqldb.Encode(e.Payload, e.Metadata)
	err = q.db.GetContext(ctx, &lease, q.db.SQL(recordNewPostgres),
		e.ID, e.Topic, e.Key, c.JSON, c.Text, c.Bytes, c.Metadata, e.Source, handler, instance, e.Declared)
	return lease, err
}

func (postgres) takeUp(ctx context.Context, q *Queue, e store.EventID, handler, instance string, again bool) (lease taken, err error) {
	err = q.db.GetContext(ctx, &lease, q.db.SQL(takeUpPostgres), e.ID, e.Topic, handler, instance, again)
	return lease, err
}

func (postgres) claim(ctx context.Context, q *Queue, by Claimant, wants []Want) ([]*Claimed, error) {
	topics, handlers, ns := wantArrays(wants)
	var claimed []*Claimed
	var startedAt sqldb.Time
	err := q.db.Query(ctx, q.db.Pool(), q.db.SQL(claimPostgres), []any{topics, handlers, ns, by.Instance, by.Claims, q.db.IDs(by.Held)}, func(rows *sql.Rows) error {
		claimed = nil
		for rows.Next() { // sqlx would take as long as everything else here
			var r claimedRow
			if err := rows.Scan(&r.RunID, &r.ID, &r.Topic, &r.Handler, &r.Attempt, &r.Tries, &r.Cycle, &r.PublishedAt, &r.StartedAt,
				&r.ReplayID, &r.ErrorKind, &r.Error, &r.Fingerprint,
				&r.Lost, &r.Key, &r.Payload, &r.PayloadBytes, &r.Metadata, &r.Source); err != nil {
				return err
			}
			if claimed == nil {
				startedAt = r.StartedAt
			}
			r.StartedAt, r.RunPublishedAt = startedAt, r.PublishedAt
			q.db.NoteRun(r.RunID)
			claimed = append(claimed, r.claimed(by.Instance))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return claimed, nil
}

// end uses a single statement for the most frequent case: successes of one instance and
// attempt.
func (p postgres) end(ctx context.Context, q *Queue, outcomes []Outcome) (ended []Lease, err error) {
	successes, others := bySuccess(outcomes)
	if len(others) == 0 && len(successes) == 1 {
		for a, ids := range successes {
			return p.succeed(ctx, q, q.db.Pool(), a.instance, a.number, ids)
		}
	}
	err = q.db.InTx(ctx, func(tx *sqlx.Tx) (err error) {
		ended, err = p.endIn(ctx, q, tx, outcomes)
		return err
	})
	return ended, err
}

type attempt struct {
	instance string
	number   int
}

// bySuccess returns the successful runs by instance and attempt, and all other
// outcomes.
func bySuccess(outcomes []Outcome) (successes map[attempt]pq.Int64Array, others []Outcome) {
	successes = map[attempt]pq.Int64Array{}
	for _, o := range outcomes {
		if o.Status != store.Success {
			others = append(others, o)
			continue
		}
		key := attempt{o.Lease.Instance, o.Lease.Attempt}
		successes[key] = append(successes[key], o.Lease.RunID)
	}
	return successes, others
}

// endIn writes the successes without a join, in one statement for each instance and
// attempt. In a join with an array of unknown length, the planner would read the whole
// table or compare every pair.
func (p postgres) endIn(ctx context.Context, q *Queue, tx *sqlx.Tx, outcomes []Outcome) (ended []Lease, err error) {
	successes, others := bySuccess(outcomes)
	for a, ids := range successes {
		leases, err := p.succeed(ctx, q, tx, a.instance, a.number, ids)
		if err != nil {
			return nil, err
		}
		ended = append(ended, leases...)
	}
	for chunk := range slices.Chunk(others, 100) {
		leases, err := p.endOthers(ctx, q, tx, chunk)
		if err != nil {
			return nil, err
		}
		ended = append(ended, leases...)
	}
	return ended, nil
}

func (postgres) succeed(ctx context.Context, q *Queue, db sqlx.ExtContext, instance string, attempt int, ids pq.Int64Array) ([]Lease, error) {
	n, err := q.db.Change(ctx, db, q.db.SQL(succeedManyPostgres), ids, instance, attempt)
	if err != nil {
		return nil, err
	}
	if int(n) < len(ids) { // some leases were lost: find out which
		asked := ids
		ids = nil
		if err := sqlx.SelectContext(ctx, db, &ids, q.db.SQL(succeededPostgres), asked, instance, attempt); err != nil {
			return nil, err
		}
	}
	ended := make([]Lease, len(ids))
	for i, id := range ids {
		ended[i] = Lease{RunID: id, Instance: instance, Attempt: attempt}
	}
	return ended, nil
}

func (postgres) endOthers(ctx context.Context, q *Queue, tx *sqlx.Tx, outcomes []Outcome) ([]Lease, error) {
	n := len(outcomes)
	var (
		ids       = make(pq.Int64Array, n)
		instances = make(pq.StringArray, n)
		attempts  = make(pq.Int64Array, n)
		statuses  = make(pq.StringArray, n)
		delays    = make(pq.Float64Array, n)
		refunds   = make(pq.BoolArray, n)
		nexts     = make(pq.BoolArray, n)
		onRecord  = make(pq.BoolArray, n)
		failures  = newFailureArrays(n)
		callbacks = newFailureArrays(n)
	)
	for i, o := range outcomes {
		ids[i], instances[i], attempts[i] = o.Lease.RunID, o.Lease.Instance, int64(o.Lease.Attempt)
		statuses[i], delays[i], refunds[i], nexts[i] = string(o.Status), o.Delay.Seconds(), o.Refund, o.NextCycle
		onRecord[i] = o.OnRecord
		failures.set(i, o.Failure)
		callbacks.set(i, o.Callback)
	}
	var ended []Lease
	err := tx.SelectContext(ctx, &ended, q.db.SQL(endManyPostgres), ids, instances, attempts, statuses, delays, refunds, nexts,
		failures.kinds, failures.messages, failures.stacks, failures.fingerprints,
		callbacks.kinds, callbacks.messages, callbacks.stacks, onRecord)
	return ended, err
}

type failureArrays struct {
	kinds, messages, stacks, fingerprints pq.StringArray
}

func newFailureArrays(n int) failureArrays {
	return failureArrays{make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n)}
}

func (a failureArrays) set(i int, f *store.Failure) {
	if f != nil {
		a.kinds[i], a.messages[i], a.stacks[i], a.fingerprints[i] = string(f.Kind), f.Message, f.Stack, f.Fingerprint
	}
}
