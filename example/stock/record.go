package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/reprise-bus/reprise/store"
)

// printRuns prints runs, which the store lists newest first, newest last. A try
// is an attempt that counts against the policy, in its cycle.
func printRuns(out io.Writer, runs []store.Run) {
	table := newTable(out)
	fmt.Fprintln(table, "RUN\tSKU\tSTATUS\tATTEMPT\tCYCLE\tTRY\tKIND\tERROR")
	for _, r := range slices.Backward(runs) {
		fmt.Fprintf(table, "%d\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", r.ID, r.Key, r.Status, r.Attempt, r.Cycle+1, r.Tries, r.ErrorKind, r.Error)
	}
	table.Flush()
}

// printAttempts prints what has failed of a run, oldest first.
func (a *app) printAttempts(ctx context.Context, out io.Writer, run store.Run) error {
	attempts, err := a.bus.Store().Attempts(ctx, run.ID)
	if err != nil {
		return err
	}
	table := newTable(out)
	fmt.Fprintln(table, "ATTEMPT\tCYCLE\tKIND\tMESSAGE")
	for _, t := range attempts {
		fmt.Fprintf(table, "%d\t%d\t%s\t%s\n", t.Attempt, t.Cycle+1, t.Kind, t.Message)
	}
	return table.Flush()
}

// printRows prints what a query finds.
func (a *app) printRows(ctx context.Context, out io.Writer, query string, args ...any) error {
	rows, err := a.bus.DB().QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	table := newTable(out)
	fmt.Fprintln(table, strings.ToUpper(strings.Join(columns, "\t")))
	cells, into := make([]string, len(columns)), make([]any, len(columns))
	for i := range cells {
		into[i] = &cells[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	table.Flush()
	return rows.Err()
}

func newTable(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }
