package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/store"
)

// newestFirst makes the command that lists numbered things, newest first, one page at a
// time.
func (a *app) newestFirst(what, short, example string, list func(ctx context.Context, st *store.Store, before int64, limit int) error) *cobra.Command {
	var before int64
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   short,
		Example: example,
		Args:    cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			if before < 0 {
				return usage(fmt.Errorf("--before %d: want the number that the page before ended with", before))
			}
			if limit < 1 || limit > store.MaxLimit {
				return usage(fmt.Errorf("--limit %d: want 1 to %d", limit, store.MaxLimit))
			}
			return a.withStore(ctx, func(st *store.Store) error { return list(ctx, st, before, limit) })
		}),
	}
	c.Flags().Int64Var(&before, "before", 0, what+" older than this one: the next page")
	c.Flags().IntVar(&limit, "limit", 50, "how many")
	return c
}
