package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// recovery measures what it takes to find and give back the runs of an instance
// that has held one since before the history, and two of now: asking what it
// holds, and recovering it when it is dead.
func recovery(ctx context.Context, st *store.Store, out io.Writer) error {
	const times = 20
	var held, recovered []time.Duration
	for n := range times {
		dead := fmt.Sprint("dead ", n)
		for _, id := range []string{dead, "judge"} {
			if err := queue.Of(st).Register(ctx, store.Instance{ID: id, Host: "host"}); err != nil {
				return err
			}
		}
		if _, err := st.DB().ExecContext(ctx, `
			UPDATE reprise.handler_runs SET status = 'PENDING', instance = $1, due_at = NULL, finished_at = NULL, failed_at = NULL
			WHERE id IN (SELECT min(id) FROM reprise.handler_runs UNION ALL SELECT max(id) - 1 FROM reprise.handler_runs UNION ALL SELECT max(id) FROM reprise.handler_runs)`, dead); err != nil {
			return err
		}
		if _, err := st.DB().ExecContext(ctx, `
			UPDATE reprise.instances SET held_runs = ARRAY(SELECT min(id) FROM reprise.handler_runs), lowest_run = (SELECT min(id) FROM reprise.handler_runs),
				recent_run = (SELECT max(id) - 2 FROM reprise.handler_runs)
			WHERE id = $1`, dead); err != nil {
			return err
		}
		began := time.Now()
		leases, err := queue.Of(st).Held(ctx, dead)
		if err != nil || len(leases) != 3 {
			return fmt.Errorf("%d runs are held, want 3: %w", len(leases), err)
		}
		held = append(held, time.Since(began))
		if _, err := st.DB().ExecContext(ctx, `
			UPDATE reprise.instances SET started_at = now() - interval '1 hour', heartbeat_at = CASE WHEN id = 'judge' THEN now() ELSE now() - interval '1 hour' END`); err != nil {
			return err
		}
		began = time.Now()
		gone, err := queue.Of(st).Recover(ctx, "judge")
		if err != nil || !slices.Contains(gone, dead) {
			return fmt.Errorf("recovered %q, want %q: %w", gone, dead, err)
		}
		recovered = append(recovered, time.Since(began))
	}
	for _, took := range [][]time.Duration{held, recovered} {
		slices.Sort(took)
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	_, err := fmt.Fprintf(out, "\nan instance that has held a run since the beginning: asked what it holds in %.1f ms, recovered in %.1f ms (medians of %d; at most %.1f and %.1f)\n",
		ms(held[times/2]), ms(recovered[times/2]), times, ms(held[times-1]), ms(recovered[times-1]))
	return err
}
