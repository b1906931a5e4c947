package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
)

const (
	// endsAfter is how long after its handler has returned the end of a run must be
	// written, while runs of another handler are locked: as long as the finisher
	// waits for two batches, 4 s, and 2 s more on a busy machine.
	endsAfter = 6 * time.Second
	maxLocked = 20

	// catchingUp is how long after an outage of the database the ends that have
	// gathered may delay others.
	catchingUp = 10 * time.Second
)

// lock keeps leased runs of one handler locked. If measured, it looks whether runs of
// others that the same processes hold end meanwhile.
func (s *saboteur) lock(ctx context.Context, lasting time.Duration, measured bool) error {
	since := time.Now()
	tx, err := s.target.db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return errTooSoon
	}
	defer func() { _ = tx.Rollback() }() // what it keeps locked is all that matters
	handler, pids, err := s.lockSome(ctx, tx)
	if err == nil {
		pauseFor(ctx, time.Until(since.Add(lasting)))
	}
	if err == nil && measured {
		err = s.countEnds(ctx, since, handler, pids)
	}
	switch {
	case ctx.Err() != nil:
		return errTooLate
	case err != nil && s.outage.since(since):
		return errTooSoon
	}
	return err
}

// lockSome locks runs of one handler that are leased now or within two seconds, and
// returns which processes hold them.
func (s *saboteur) lockSome(ctx context.Context, tx *sql.Tx) (handler string, pids map[int]bool, err error) {
	pids = map[int]bool{}
	locked := map[int64]bool{}
	query := s.target.kind.Qualify(dialect.DefaultSchema, `
		SELECT r.id, r.handler, split_part(r.instance, '/', 2)
		FROM reprise.handler_runs r
		WHERE r.id > (SELECT max(id) FROM reprise.handler_runs) - 20000 AND r.status = 'PENDING' AND r.due_at IS NULL
		AND ($1 = '' OR r.handler = $1) ORDER BY r.id LIMIT $2 FOR UPDATE SKIP LOCKED`)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && len(locked) < maxLocked && ctx.Err() == nil; pauseFor(ctx, 20*time.Millisecond) {
		limit := maxLocked
		if handler == "" {
			limit = 1
		}
		rows, err := tx.QueryContext(ctx, query, handler, limit)
		if err != nil {
			return "", nil, err
		}
		for rows.Next() {
			var id int64
			var pid int
			if err := rows.Scan(&id, &handler, &pid); err != nil {
				_ = rows.Close()
				return "", nil, err
			}
			locked[id], pids[pid] = true, true
		}
		if err := rows.Close(); err != nil {
			return "", nil, err
		}
	}
	if len(locked) == 0 {
		return "", nil, errTooSoon
	}
	s.log.Info("locked", "handler", handler, "runs", len(locked), "processes", len(pids))
	return handler, pids, nil
}

// countEnds counts the runs of other handlers whose handlers have returned endsAfter
// ago at least, in the processes that hold locked runs, since these were locked.
func (s *saboteur) countEnds(ctx context.Context, since time.Time, handler string, pids map[int]bool) error {
	type ending struct {
		id      int64
		handler string
		attempt int
		open    bool
	}
	found := map[int][]ending{} // by process
	err := s.target.each(ctx, fmt.Sprintf(`
		SELECT n.pid, r.id, r.handler, n.attempt, r.status = 'PENDING' AND r.due_at IS NULL AND r.attempt = n.attempt
		FROM soak_notes n JOIN reprise.handler_runs r ON r.event_id = n.event_id AND r.topic = n.topic AND r.handler = n.handler
		WHERE n.at BETWEEN now() - interval '%f s' AND now() - interval '%f s' AND n.what = '%s' AND n.handler NOT IN ('%s')`,
		time.Since(since).Seconds(), endsAfter.Seconds(), noteBegun, strings.Join([]string{handler, nameSlow, nameKiller}, "', '")),
		func(scan func(...any) error) error {
			var pid int
			var e ending
			if err := scan(&pid, &e.id, &e.handler, &e.attempt, &e.open); err != nil {
				return err
			}
			found[pid] = append(found[pid], e)
			return nil
		})
	if err != nil {
		return err
	}
	undisturbed := s.crew.undisturbed(since)
	if s.outage.since(since.Add(-catchingUp)) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid, all := range found {
		if !undisturbed[pid] || !pids[pid] {
			continue
		}
		var broken []string
		for _, e := range all {
			if e.open {
				broken = append(broken, fmt.Sprintf("attempt %d of run %d of handler %s in process %d has not ended while runs of %s are locked", e.attempt, e.id, e.handler, pid, handler))
			}
		}
		s.unhindered.add(len(all), broken)
	}
	return nil
}
