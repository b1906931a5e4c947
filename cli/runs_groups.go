package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func runsGroupsCommand(a *app) *cobra.Command {
	var s selection
	var limit int
	var recount bool
	c := &cobra.Command{
		Use:   "groups [RUN...]",
		Short: "List what failed by what is alike, the largest group first",
		Long: `List the failure groups, the largest first: FAILED runs of one handler whose
last failures are alike. SAMPLE is the newest run of each, for runs show.

By --handler, --kind and --group every FAILED run counts, whatever their number.
Any other selection is looked for among the newest FAILED runs, and the answer
says among how many.

--recount has all FAILED runs counted anew. It is needed only when doctor says
that the groups do not have as many runs as have FAILED: somebody has changed
the tables by hand.`,
		Example: `  reprise runs groups --since 1d
  reprise runs replay --group 3f2a9c5d7e8b1a40 --dry-run`,
		RunE: func(c *cobra.Command, args []string) error {
			f, err := s.of(args)
			if err != nil {
				return err
			}
			f.Limit = limit
			if err := usage(f.Validate()); err != nil {
				return err
			}
			return a.toWrite(c.Context(), !recount, func(st *store.Store) error {
				if recount {
					if err := a.recount(c.Context(), st); err != nil {
						return err
					}
				}
				return a.runsGroups(c.Context(), st, f)
			})
		},
	}
	s.add(c)
	c.Flags().IntVar(&limit, "limit", store.DefaultLimit, "how many")
	c.Flags().BoolVar(&recount, "recount", false, "count all FAILED runs anew before")
	return c
}

// recount counts all failures again.
func (a *app) recount(ctx context.Context, st *store.Store) error {
	m := a.meter("counting failures", 0)
	defer m.clear()
	return replay.Recount(ctx, st, func() { m.set(0, "") })
}

func (a *app) runsGroups(ctx context.Context, st *store.Store, f store.Filter) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	found, err := st.Grouping(ctx, f)
	if err != nil {
		return err
	}
	if err := a.print(wire.NewGroups(found), func(out io.Writer) {
		if len(found.Groups) == 0 {
			return
		}
		t := a.table("GROUP", "RUNS", "HANDLER", "KIND", "FIRST", "LAST", "SAMPLE", "ERROR")
		for _, g := range found.Groups {
			t.add(cmp.Or(g.Fingerprint, "-"), g.Runs, g.Handler, g.Kind, at(g.First, now), at(g.Last, now), g.Newest, g.Error)
		}
		t.write(out)
	}); err != nil {
		return err
	}
	bounds := groupBounds(found)
	switch {
	case len(found.Groups) > 0 && found.More:
		bounds = append(bounds, "There are more groups: the same with a higher --limit, or another selection.")
	case len(found.Groups) == 0 && len(bounds) > 0:
		return nothing("nothing is found. %s", strings.Join(bounds, " "))
	case len(found.Groups) == 0:
		return nothing("nothing failed that is selected")
	}
	for _, bound := range bounds {
		a.say("%s", bound)
	}
	return nil
}

// groupBounds says what a result leaves out.
func groupBounds(g store.Grouping) (all []string) {
	if g.Among > 0 {
		all = append(all, fmt.Sprintf("Only the newest %s FAILED runs were looked at: older ones may be selected, too. Every one counts where nothing but --handler, --kind and --group is said.", words.Thousands(g.Among)))
	}
	if g.Counting {
		all = append(all, "FAILED runs of before an upgrade, or a recount, are still being counted: groups may be missing, and have more runs. The application's processes count them; reprise runs groups --recount does it at once.")
	}
	return all
}
