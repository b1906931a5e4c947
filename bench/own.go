package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/migrations"
)

// The works that write Reprise's tables themselves, by set-based SQL.

// fill adds finished runs, and their events, to the history.
const fill = `
	WITH finished AS (
		INSERT INTO reprise.events (id, topic, payload, published_at)
		SELECT 'history-' || lpad(i::text, 28, '0'), 'bench', json_build_object('seq', i, 'at', 0, 'data', $3::text), now() - interval '1 day'
		FROM generate_series($1::bigint, $2::bigint) i
		RETURNING id
	)
	INSERT INTO reprise.handler_runs (event_id, topic, handler, status, attempt, instance, started_at, finished_at)
	SELECT id, 'bench', 'handler-0', 'SUCCESS', 1, 'history', now() - interval '1 day', now() - interval '1 day'
	FROM finished`

// drainAfter is drain in a database that already holds so many finished runs. It is filled once
// and serves all rounds.
func drainAfter(runs int) func(context.Context, *trial) (figures, error) {
	return func(ctx context.Context, t *trial) (f figures, err error) {
		if t.fresh {
			if err := migrations.Up(ctx, t.db, ""); err != nil {
				return f, err
			}
			const step = 1_000_000
			for first := 1; first <= runs; first += step {
				if _, err := t.db.ExecContext(ctx, fill, first, min(first+step-1, runs), filler); err != nil {
					return f, fmt.Errorf("fill the history: %w", err)
				}
			}
			// Otherwise autovacuum does it in the middle of a measurement.
			if _, err := t.db.ExecContext(ctx, "VACUUM (ANALYZE) reprise.events, reprise.handler_runs"); err != nil {
				return f, err
			}
		}
		return drain(setup{Handlers: 1})(ctx, t)
	}
}

// The life of a batch of runs in three statements, none of whose rows leaves the database.
const (
	floorPublish = `
		WITH published AS (
			INSERT INTO reprise.events (id, topic, payload)
			SELECT $1 || lpad(i::text, 30, '0'), 'bench', json_build_object('seq', i, 'at', 0, 'data', $4::text)
			FROM generate_series($2::bigint, $3::bigint) i
			RETURNING id
		)
		INSERT INTO reprise.handler_runs (event_id, topic, handler, due_at) SELECT id, 'bench', 'handler-0', now() FROM published`
	floorClaim = `
		WITH due AS (
			SELECT id FROM reprise.handler_runs
			WHERE topic = 'bench' AND handler = 'handler-0' AND due_at <= now()
			ORDER BY due_at, id
			LIMIT $2
			FOR UPDATE SKIP LOCKED
		)
		UPDATE reprise.handler_runs r
		SET instance = $1, attempt = attempt + 1, started_at = now(), due_at = NULL
		FROM due WHERE r.id = due.id
		RETURNING r.id`
	floorEnd = `
		UPDATE reprise.handler_runs
		SET status = 'SUCCESS', finished_at = now()
		WHERE id BETWEEN $2 AND $3 AND instance = $1 AND attempt = 1 AND status = 'PENDING'`
)

const floorBatch = 1000

// floor measures Postgres alone: two connections publish, claim and end runs, and the rows that
// a bus has to carry in between stay where they are. With waiting, the events are there before.
func floor(waiting bool) func(context.Context, *trial) (figures, error) {
	return func(ctx context.Context, t *trial) (f figures, err error) {
		if err := migrations.Up(ctx, t.db, ""); err != nil {
			return f, err
		}
		const workers = 2
		batches := max(1, t.n/(workers*floorBatch)) // of each worker
		if waiting {
			if _, err := t.db.ExecContext(ctx, floorPublish, "floor0", 1, workers*batches*floorBatch, filler); err != nil {
				return f, err
			}
			if _, err := t.db.ExecContext(ctx, "ANALYZE"); err != nil {
				return f, err
			}
		}
		if err := t.calm(ctx); err != nil {
			return f, err
		}
		start := time.Now()
		var wg sync.WaitGroup
		var ended [workers]int
		var errs [workers]error
		for i := range workers {
			wg.Go(func() { ended[i], errs[i] = t.floorWorker(ctx, i, batches, waiting, start) })
		}
		wg.Wait()
		return t.rate(start, ended[0]+ended[1], workers*batches*floorBatch), errors.Join(errs[:]...)
	}
}

func (t *trial) floorWorker(ctx context.Context, i, batches int, waiting bool, start time.Time) (ended int, err error) {
	conn, err := t.db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	name := fmt.Sprintf("floor%d", i)
	publish, err := conn.PrepareContext(ctx, floorPublish)
	if err != nil {
		return 0, err
	}
	claim, err := conn.PrepareContext(ctx, `WITH leased AS (`+floorClaim+`) SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM leased`)
	if err != nil {
		return 0, err
	}
	end, err := conn.PrepareContext(ctx, floorEnd)
	if err != nil {
		return 0, err
	}
	for b := 0; time.Since(start) < t.limit; b++ {
		if !waiting && b < batches {
			if _, err := publish.ExecContext(ctx, name, b*floorBatch+1, (b+1)*floorBatch, filler); err != nil {
				return ended, err
			}
		}
		var lowest, highest int64
		if err := claim.QueryRowContext(ctx, name, floorBatch).Scan(&lowest, &highest); err != nil {
			return ended, err
		}
		if highest == 0 && (waiting || b >= batches) {
			break // the other worker has the rest
		}
		result, err := end.ExecContext(ctx, name, lowest, highest)
		if err != nil {
			return ended, err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return ended, err
		}
		ended += int(n)
	}
	return ended, nil
}
