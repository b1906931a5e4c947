package cli

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/store"
)

func runsGroupsCommand(a *app) *cobra.Command {
	var s selection
	var limit int
	c := &cobra.Command{
		Use:   "groups [RUN...]",
		Short: "List what failed by what is alike, the most frequent first",
		Long: `List the failure groups: FAILED runs of one handler whose last failures are
alike. SAMPLE is the newest run of each, for runs show.`,
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
			return a.withStore(c.Context(), func(st *store.Store) error {
				now, err := st.Clock(c.Context())
				if err != nil {
					return err
				}
				groups, err := st.Groups(c.Context(), f)
				if err != nil {
					return err
				}
				return a.printGroups(groups, now)
			})
		},
	}
	s.add(c)
	c.Flags().IntVar(&limit, "limit", store.DefaultLimit, "how many")
	return c
}

// groupJSON is a failure group for programs.
type groupJSON struct {
	Group   string     `json:"group"`
	Handler string     `json:"handler"`
	Kind    store.Kind `json:"error_kind"`
	Error   string     `json:"error"`
	Runs    countJSON  `json:"runs"`
	First   *time.Time `json:"first_at"`
	Last    *time.Time `json:"last_at"`
	Oldest  int64      `json:"oldest"`
	Newest  int64      `json:"newest"`
}

func (a *app) printGroups(groups []store.Group, now time.Time) error {
	list := struct {
		Groups []groupJSON `json:"groups"`
	}{[]groupJSON{}}
	for _, g := range groups {
		list.Groups = append(list.Groups, groupJSON{g.Fingerprint, g.Handler, g.Kind, g.Error, newCountJSON(g.Runs), utc(g.First), utc(g.Last), g.Oldest, g.Newest})
	}
	if err := a.print(list, func(out io.Writer) {
		if len(groups) == 0 {
			return
		}
		t := a.table("GROUP", "RUNS", "HANDLER", "KIND", "FIRST", "LAST", "SAMPLE", "ERROR")
		for _, g := range groups {
			t.add(g.Fingerprint, g.Runs, g.Handler, g.Kind, at(g.First, now), at(g.Last, now), g.Newest, g.Error)
		}
		t.write(out)
	}); err != nil {
		return err
	}
	if len(groups) == 0 {
		return nothing("nothing failed that is selected")
	}
	return nil
}
