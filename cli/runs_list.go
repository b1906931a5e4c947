package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

func runsListCommand(a *app) *cobra.Command {
	var s selection
	var before int64
	var limit int
	c := &cobra.Command{
		Use:     "list [RUN...]",
		Aliases: []string{"ls"},
		Short:   "List runs, the newest first",
		Example: `  reprise runs list --status FAILED
  reprise runs list --handler send-welcome-email --since 2h --text timeout
  reprise runs list --payload customer.id=42 -o json`,
		RunE: func(c *cobra.Command, args []string) error {
			f, err := s.of(args)
			if err != nil {
				return err
			}
			if limit < 1 || before < 0 {
				return usage(fmt.Errorf("--limit %d --before %d: want a limit of at least 1, and the number of a run", limit, before))
			}
			f.Before = before
			return a.withStore(c.Context(), func(st *store.Store) error { return a.runsList(c.Context(), st, f, limit) })
		},
	}
	s.add(c)
	c.Flags().Int64Var(&before, "before", 0, "runs older than this one: the next page")
	c.Flags().IntVar(&limit, "limit", 50, "how many")
	return c
}

func (a *app) runsList(ctx context.Context, st *store.Store, f store.Filter, limit int) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	runs, next, err := collect(ctx, st, f, limit)
	if err != nil && len(runs) == 0 {
		return err
	}
	if printed := a.print(wire.NewRuns(runs, next, now), func(out io.Writer) {
		if len(runs) > 0 {
			a.printRuns(out, runs, now)
		}
	}); printed != nil {
		return printed
	}
	if next != 0 {
		a.say("More: the same with --before %d", next)
	}
	if err == nil && len(runs) == 0 {
		return nothing("no run is selected")
	}
	return err
}

// collect reads page after page until it has enough runs. It also returns the --before
// of the next page. With an error, it returns the runs that it has found so far.
func collect(ctx context.Context, st *store.Store, f store.Filter, limit int) (runs []store.Run, next int64, err error) {
	for {
		f.Limit = min(limit-len(runs), store.MaxLimit)
		page, err := st.Page(ctx, f)
		if err != nil {
			return runs, f.Before, err
		}
		runs = append(runs, page.Runs...)
		if f.Before = page.Next; f.Before == 0 || len(runs) == limit {
			return runs, f.Before, nil
		}
	}
}

func (a *app) printRuns(out io.Writer, runs []store.Run, now time.Time) {
	t := a.table("RUN", "STATUS", "HANDLER", "TOPIC", "EVENT", "KEY", "ATTEMPT", "AGE", "ERROR")
	for _, r := range runs {
		t.add(r.ID, statusOf(r, now), r.Handler, r.Topic, r.EventID, r.Key, r.Attempt, words.Ago(now.Sub(r.PublishedAt)), r.Error)
	}
	t.write(out)
}
