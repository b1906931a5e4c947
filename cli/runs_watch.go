package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/visible"
	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

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
	watch, err := replay.NewWatch(ctx, st, f)
	if err != nil {
		return err
	}
	said := a.sayPartial(watch, false)
	a.say("Watching %s. Ctrl-C ends it.", flagsOf(f))
	for {
		if err := pause(ctx, interval); err != nil {
			return err
		}
		runs, now, err := watch.Look(ctx)
		if err != nil {
			return err
		}
		said = a.sayPartial(watch, said)
		if err := a.printWatched(runs, now); err != nil {
			return err
		}
	}
}

// sayPartial says once that a watch does not see all runs. It returns whether this is
// said.
func (a *app) sayPartial(watch *replay.Watch, said bool) bool {
	if watch.Partial() && !said {
		a.say("So many runs are selected that only the newest of them are watched: one that is older is not printed. Select less, such as by --since or --handler.")
	}
	return watch.Partial()
}

// pause waits for d, or returns the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (a *app) printWatched(runs []store.Run, now time.Time) error {
	for _, r := range runs {
		if a.output == "json" {
			if err := a.printJSON(wire.NewRun(r, now), ""); err != nil {
				return err
			}
			continue
		}
		var text bytes.Buffer
		fmt.Fprintf(&text, "%s  run %d  %s  %s  %s  attempt %d  %s", r.ChangedAt().Local().Format(time.TimeOnly), r.ID,
			statusOf(r, now).text, r.Handler, r.EventID, r.Attempt, words.Line(r.Error))
		if _, err := fmt.Fprintln(a.stdout, words.Cut(visible.Line(text.String()), width(a.stdout))); err != nil {
			return err
		}
	}
	return nil
}
