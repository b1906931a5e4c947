package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// printRuns prints runs, which the store lists newest first, newest last.
func printRuns(out io.Writer, runs []store.Run) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "RUN\tEMAIL\tHANDLER\tSTATUS\tATTEMPT\tERROR")
	for _, r := range slices.Backward(runs) {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%d\t%s\n", r.ID, r.Key, r.Handler, r.Status, r.Attempt, r.Error)
	}
	table.Flush()
}

// replay runs again what failed on our topic. Who asked for it, and why, goes
// on record.
func (a *app) replay(ctx context.Context, reason string) (store.Operation, error) {
	return replay.All(ctx, a.bus.Store(), store.Filter{Topic: topic}, replay.Request{Reason: reason})
}

// queryCommand is what to type to see a table of the record. The URL of a
// Postgres may hold a password: it is not printed.
func (a *app) queryCommand(columns, table string) string {
	if path, ok := strings.CutPrefix(a.databaseURL, "sqlite:"); ok {
		return fmt.Sprintf(`sqlite3 -box %s "SELECT %s FROM reprise_%s"`, path, columns, table)
	}
	return fmt.Sprintf(`psql "$DATABASE_URL" -c "SELECT %s FROM reprise.%s"`, columns, table)
}

// serveCommand is what to type to serve on this database.
func (a *app) serveCommand() string {
	command := "go run ./example -serve"
	if strings.HasPrefix(a.databaseURL, "sqlite:") {
		command = "DATABASE_URL=" + a.databaseURL + " " + command
	}
	return command
}
