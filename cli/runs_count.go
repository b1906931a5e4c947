package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/store"
)

func runsCountCommand(a *app) *cobra.Command {
	var s selection
	c := &cobra.Command{
		Use:   "count [RUN...]",
		Short: "Count runs",
		Long: fmt.Sprintf(`Count runs, up to %d of them, and among the newest that there are where the
selection is one that no index offers. 37+ is 37 or more.`, store.MaxCount),
		Example: "  reprise runs count --status FAILED --since 1d",
		RunE: func(c *cobra.Command, args []string) error {
			f, err := s.of(args)
			if err != nil {
				return err
			}
			return a.withStore(c.Context(), func(st *store.Store) error {
				n, err := st.Count(c.Context(), f)
				if err != nil {
					return err
				}
				return a.print(n, func(out io.Writer) { fmt.Fprintln(out, n) })
			})
		},
	}
	s.add(c)
	return c
}
