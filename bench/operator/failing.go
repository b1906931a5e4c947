package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// countFailures counts the failures of the history, which was written without the
// triggers that would have noted them.
func countFailures(ctx context.Context, st *store.Store, out io.Writer) error {
	if err := operate.On(st).Recount(ctx); err != nil {
		return err
	}
	began := time.Now()
	var longest time.Duration
	steps, more := 0, true
	for ; more; steps++ {
		began := time.Now()
		var err error
		if more, err = operate.On(st).CountFailures(ctx); err != nil {
			return err
		}
		longest = max(longest, time.Since(began))
	}
	if _, err := st.DB().ExecContext(ctx, `VACUUM (ANALYZE) reprise.failure_groups, reprise.failure_changes`); err != nil {
		return err
	}
	var groups, runs int64
	if err := st.DB().QueryRowContext(ctx, `SELECT count(*), sum(runs) FROM reprise.failure_groups`).Scan(&groups, &runs); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%d failures of before in %d groups, counted in %v: %d steps of at most %v\n\n",
		runs, groups, time.Since(began).Round(time.Millisecond), steps, longest.Round(100*time.Microsecond))
	return err
}

// failing measures what the counting of failures costs those who end runs, and what
// a question for the groups takes before what has changed is added to them.
func failing(ctx context.Context, st *store.Store, o options, out io.Writer) error {
	const at, times = 1000, 15
	end := func(status store.Status, failure *store.Failure) (time.Duration, error) {
		var took []time.Duration
		for n := range times {
			if _, err := st.DB().ExecContext(ctx, `
				UPDATE reprise.handler_runs SET status = 'PENDING', instance = 'ender', attempt = 2, due_at = NULL, finished_at = NULL, failed_at = NULL
				WHERE id > $1 AND id <= $2`, n*at, (n+1)*at); err != nil {
				return 0, err
			}
			outcomes := make([]queue.Outcome, at)
			for i := range outcomes {
				outcomes[i] = queue.Outcome{Lease: queue.Lease{RunID: int64(n*at + i + 1), Instance: "ender", Attempt: 2}, Status: status, Failure: failure}
			}
			began := time.Now()
			lost, err := queue.Of(st).End(ctx, outcomes)
			if err != nil || len(lost) > 0 {
				return 0, fmt.Errorf("%d leases are lost: %w", len(lost), err)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took[times/2], nil
	}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 / at }
	for _, ended := range []struct {
		status  store.Status
		failure *store.Failure
	}{{store.Success, nil}, {store.Failed, store.NewFailure("handler", store.KindError, "broken")}} {
		var took [2]time.Duration
		for i, triggers := range []string{"DISABLE", "ENABLE"} {
			if _, err := st.DB().ExecContext(ctx, `ALTER TABLE reprise.handler_runs `+triggers+` TRIGGER failure_updated`); err != nil {
				return err
			}
			var err error
			if took[i], err = end(ended.status, ended.failure); err != nil {
				return err
			}
		}
		fmt.Fprintf(out, "\nto end a run as %s, %d at once: %.1f µs without counting, %.1f with it (medians of %d)", ended.status, at, each(took[0]), each(took[1]), times)
	}
	var waiting int64
	if err := st.DB().QueryRowContext(ctx, `SELECT count(*) FROM reprise.failure_changes`).Scan(&waiting); err != nil {
		return err
	}
	var asked []time.Duration
	for range o.asked {
		began := time.Now()
		if _, err := st.Grouping(ctx, store.Filter{}); err != nil {
			return err
		}
		asked = append(asked, time.Since(began))
	}
	slices.Sort(asked)
	began := time.Now()
	for more := true; more; {
		var err error
		if more, err = operate.On(st).CountFailures(ctx); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "\ngroups, while %d changes are to be added to them: p50 %.1f ms, p95 %.1f ms; added in %v\n",
		waiting, float64(asked[len(asked)/2].Microseconds())/1000, float64(asked[len(asked)*95/100].Microseconds())/1000, time.Since(began).Round(time.Millisecond))
	return err
}
