package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/visible"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

// watchBack is how far back each look goes: the rows of a transaction may become
// visible only after its end.
const watchBack = time.Minute

func runsWatchCommand(a *app) *cobra.Command {
	var s selection
	interval := age{time.Second}
	c := &cobra.Command{
		Use:   "watch [RUN...]",
		Short: "Print runs as they fail",
		Long: `Print runs as they come to be selected, by default as they fail, until Ctrl-C.
Where too many are selected it looks at the newest of them, and says so. With
-o json, a run is a line.`,
		Example: "  reprise runs watch\n  reprise runs watch --handler send-welcome-email --status SUCCESS",
		RunE: func(c *cobra.Command, args []string) error {
			f, err := s.of(args)
			if err != nil {
				return err
			}
			if f.Status == "" {
				f.Status = store.Failed
			}
			if interval.Duration < 100*time.Millisecond {
				return usage(errors.New("--interval: want at least 100ms"))
			}
			return a.withStore(c.Context(), func(st *store.Store) error { return a.watch(c.Context(), st, f, interval.Duration) })
		},
	}
	s.add(c)
	c.Flags().Var(&interval, "interval", "between two looks")
	return c
}

func (a *app) watch(ctx context.Context, st *store.Store, f store.Filter, interval time.Duration) error {
	began, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	seen := map[int64]time.Time{} // when each printed run last changed
	bounded := false              // the limit has been reported
	for first := true; ; first = false {
		now, err := st.Clock(ctx)
		if err != nil {
			return err
		}
		f.Changed = now.Add(-watchBack)
		if f.Changed.Before(began) {
			f.Changed = began
		}
		runs, all, err := lookOnce(ctx, st, f)
		if err != nil {
			return err
		}
		if !all && !bounded {
			bounded = true
			a.say("So many runs are selected that only the newest of them are watched: one that is older is not printed. Select less, such as by --since or --handler.")
		}
		maps.DeleteFunc(seen, func(_ int64, since time.Time) bool { return since.Before(f.Changed) })
		var fresh []store.Run
		for _, r := range slices.Backward(runs) {
			if since := changedAt(r); !since.Before(began) && !seen[r.ID].Equal(since) {
				seen[r.ID] = since
				fresh = append(fresh, r)
			}
		}
		if first { // not news
			a.say("Watching %s. Ctrl-C ends it.", flagsOf(f))
		} else if err := a.printWatched(fresh, now); err != nil {
			return err
		}
		if err := pause(ctx, interval); err != nil {
			return err
		}
	}
}

// lookOnce returns the selected runs among as many of the newest runs as one statement
// looks at, and whether these were all.
func lookOnce(ctx context.Context, st *store.Store, f store.Filter) (runs []store.Run, all bool, err error) {
	f.Limit = store.MaxLimit
	for {
		page, err := st.Page(ctx, f)
		if err != nil {
			return nil, false, err
		}
		runs = append(runs, page.Runs...)
		if len(page.Runs) < f.Limit {
			return runs, page.Next == 0, nil
		}
		f.Before = page.Next
	}
}

// changedAt returns when the run's state last changed, as far as the run shows.
func changedAt(r store.Run) time.Time {
	for _, t := range []time.Time{r.FinishedAt, r.StartedAt} {
		if !t.IsZero() {
			return t
		}
	}
	return r.PublishedAt
}

func (a *app) printWatched(runs []store.Run, now time.Time) error {
	for _, r := range runs {
		if a.output == "json" {
			if err := a.printJSON(newRunJSON(r, now), ""); err != nil {
				return err
			}
			continue
		}
		var text bytes.Buffer
		fmt.Fprintf(&text, "%s  run %d  %s  %s  %s  attempt %d  %s", changedAt(r).Local().Format(time.TimeOnly), r.ID,
			statusOf(r, now).text, r.Handler, r.EventID, r.Attempt, words.Line(r.Error))
		if _, err := fmt.Fprintln(a.stdout, words.Cut(visible.Line(text.String()), width(a.stdout))); err != nil {
			return err
		}
	}
	return nil
}
