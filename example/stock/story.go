package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// play plays the story and prints it.
func (a *app) play(ctx context.Context, out io.Writer) (err error) {
	fmt.Fprint(out, "== The warehouse in Porto counts. What the marketplace will say of each article:\n\n")
	table := newTable(out)
	for available, sku := range articles() {
		fmt.Fprintf(table, "%s\t%s\n", sku, a.marketplace.forecast(sku))
		if err := a.count(ctx, sku, "porto", 10+available); err != nil {
			return err
		}
	}
	table.Flush()
	runs, err := a.bus.Store().Runs(ctx, store.Filter{Topic: stockChanged, Status: store.Pending})
	if err != nil {
		return err
	}
	if len(runs) == 0 {
		return errors.New("another process runs the handlers on this database: stop it, or play in another one")
	}

	fmt.Fprint(out, "\n== The handlers run, until nothing is tried again by itself.\n\n")
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer stop() // nothing left to wait for
		ended <- a.bus.Run(ctx)
	}()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	if runs, err = a.ends(ctx, runs); err != nil {
		return err
	}
	printRuns(out, runs)

	fmt.Fprint(out, "\n== What the buyers were told, after each cycle that failed:\n\n")
	oldest := runs[len(runs)-1].ID
	if err := a.printRows(ctx, out,
		`SELECT run, sku, cycle, message FROM notices WHERE run >= $1 ORDER BY run, cycle`, oldest); err != nil {
		return err
	}
	fmt.Fprint(out, "\n== The tickets, of what nobody will try again:\n\n")
	if err := a.printRows(ctx, out,
		`SELECT run, sku, kind, reason FROM tickets WHERE run >= $1 ORDER BY run`, oldest); err != nil {
		return err
	}
	tent := runs[0] // the newest
	fmt.Fprintf(out, "\n== The attempts of run %d: three cycles of three.\n\n", tent.ID)
	if err := a.printAttempts(ctx, out, tent); err != nil {
		return err
	}

	fmt.Fprint(out, "\n== The marketplace is in order. What failed is replayed.\n\n")
	a.marketplace.heal()
	again, err := replay.All(ctx, a.bus.Store(), store.Filter{IDs: failed(runs)}, replay.Request{Reason: "the marketplace is in order"})
	if err != nil {
		return err
	}
	if runs, err = a.ends(ctx, runs); err != nil {
		return err
	}
	printRuns(out, runs)
	if left := failed(runs); len(left) > 0 {
		return fmt.Errorf("runs %v failed again: the table says why", left)
	}
	attempts, err := a.bus.Store().Attempts(ctx, tent.ID)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nReplay %d ran %d runs again. The %d attempts of run %d that failed stay on record.\n",
		again.ID, again.Taken, len(attempts), tent.ID)
	return nil
}

// ends returns the runs as they are when none is PENDING any more, nor any of
// the events that their failures have published.
func (a *app) ends(ctx context.Context, runs []store.Run) ([]store.Run, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("runs are still PENDING after 30 s"))
	defer cancel()
	var these store.Filter
	for _, r := range runs {
		these.IDs = append(these.IDs, r.ID)
	}
	// In this order: a failure is published before the run that failed ends.
	for _, open := range []store.Filter{
		{IDs: these.IDs, Status: store.Pending},
		{Topic: stockUpdateFailed, Status: store.Pending},
	} {
		if err := a.waitForNone(ctx, open); err != nil {
			return nil, err
		}
	}
	return a.bus.Store().Runs(ctx, these)
}

// waitForNone returns when the filter selects no run. Nothing tells of the end
// of a run that others may have handled: it asks.
func (a *app) waitForNone(ctx context.Context, f store.Filter) error {
	f.Limit = 1
	for {
		runs, err := a.bus.Store().Runs(ctx, f)
		if err != nil || len(runs) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// failed returns the ids of the runs that are FAILED.
func failed(runs []store.Run) (ids []int64) {
	for _, r := range slices.Backward(runs) {
		if r.Status == store.Failed {
			ids = append(ids, r.ID)
		}
	}
	return ids
}
