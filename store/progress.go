package store

import (
	"context"
	"fmt"
)

// Progress is what has become of an operation's runs.
type Progress struct {
	Operation
	Succeeded int64
	Failed    int64 // FAILED again
	Discarded int64 // discarded since
	Running   int64 // leased
	Waiting   int64 // due, or due later; of a paused operation, held
	Elsewhere int64 // taken up by a later operation, or put back
	Arrived   Count // of a replay: other runs that failed into the selection since; if many failed, only the newest are looked at
}

// Left returns how many runs have no end yet. It includes runs that are not taken up
// yet, as far as Total counts them.
func (p Progress) Left() int64 {
	left := p.Running + p.Waiting
	if !p.Complete && (p.State == Running || p.State == Paused) {
		left += max(p.Total.N-p.Taken, 0)
	}
	return left
}

// Over reports whether nothing is left to do.
func (p Progress) Over() bool {
	return p.Running+p.Waiting == 0 && (p.Complete || p.State == Cancelled || p.State == Undone)
}

// Progress returns how far an operation is, or ErrNotFound. It reads only the
// operation's runs and those that have failed since the request.
func (s *Store) Progress(ctx context.Context, id int64) (p Progress, err error) {
	if p.Operation, err = s.Operation(ctx, id); err != nil {
		return p, err
	}
	if !p.Kind.HasProgress() {
		return p, nil
	}
	fail := func(err error) (Progress, error) {
		return p, fmt.Errorf("read the progress of operation %d: %w", id, err)
	}
	var rows []struct {
		Status Status `db:"status"`
		Waits  bool   `db:"waits"`
		N      int64  `db:"n"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`
		SELECT status, due_at IS NOT NULL AS waits, count(*) AS n
		FROM reprise.handler_runs WHERE replay_id = $1 GROUP BY 1, 2`), id); err != nil {
		return fail(err)
	}
	p.Elsewhere = p.Taken
	for _, r := range rows {
		p.Elsewhere -= r.N
		switch {
		case r.Status == Success:
			p.Succeeded += r.N
		case r.Status == Failed:
			p.Failed += r.N
		case r.Status == Discarded:
			p.Discarded += r.N
		case r.Waits:
			p.Waiting += r.N
		default:
			p.Running += r.N
		}
	}
	if p.Kind == Replaying {
		f := p.Selection
		f.Status = Failed
		c := s.Conditions(f, 0, 0)
		c.And(`r.failed_at >= %s`, s.db.Time(p.RequestedAt))
		c.And(`(r.replay_id IS NULL OR r.replay_id <> %s)`, id)
		if p.Arrived, err = s.count(ctx, c, MaxCount, lookFor(f, pageLook)); err != nil {
			return fail(err)
		}
	}
	return p, nil
}

// PutBack is the result of an undo.
type PutBack struct {
	Runs  int64 // runs put back to their former state
	Gone  int64 // runs deleted since, by a prune for example; they cannot be put back
	Later int64 // runs that a later operation has taken up, even if that was cancelled or undone; they stay as they are
}
