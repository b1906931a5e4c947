// Command operator measures what an operator's questions and requests cost on
// a large history: every list and count that the command line has, the request of
// a replay beside a worker that must not notice, and the recovery of an instance
// that has held a run for long.
//
//	cd bench && go run ./operator -runs 10000000
package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	_ "github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/pgserver"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

type options struct {
	runs  int
	asked int
	plans string
	only  string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.IntVar(&o.runs, "runs", 10_000_000, "in the history")
	flag.IntVar(&o.asked, "asked", 60, "how often each question is asked")
	flag.StringVar(&o.plans, "plans", "", "file to write the plan of each question's statements to")
	flag.StringVar(&o.only, "only", "", "ask only the questions whose names begin so, and make no request")
	flag.Parse()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) error {
	bin, err := pgserver.Find()
	if err != nil {
		return err
	}
	server, err := pgserver.Start(ctx, bin, "fsync=on", "full_page_writes=on", "shared_buffers=1GB", "max_wal_size=8GB")
	if err != nil {
		return err
	}
	defer server.Stop()
	db, err := sql.Open("postgres", server.URL)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := migrations.Up(ctx, db, ""); err != nil {
		return err
	}
	began := time.Now()
	if err := fill(ctx, db, o.runs); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d runs, filled in %v\n\n", o.runs, time.Since(began).Round(time.Second))
	st, err := store.New(ctx, db, "")
	if err != nil {
		return err
	}
	if err := countFailures(ctx, st, out); err != nil {
		return err
	}
	if err := questions(ctx, st, o, out); err != nil {
		return err
	}
	if err := failing(ctx, st, o, out); err != nil {
		return err
	}
	if o.plans != "" {
		if err := explain(ctx, server, o); err != nil {
			return err
		}
	}
	if o.only != "" {
		return nil
	}
	if err := request(ctx, st, server.URL, out); err != nil {
		return err
	}
	return recovery(ctx, st, out)
}

// questions asks each question so many times, one after the other in turns.
func questions(ctx context.Context, st *store.Store, o options, out io.Writer) error {
	asked, err := ask(ctx, st, o)
	if err != nil {
		return err
	}
	took := make([][]time.Duration, len(asked))
	found := make([]string, len(asked))
	for range o.asked {
		for i, q := range asked {
			began := time.Now()
			answer, err := q.ask(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			took[i], found[i] = append(took[i], time.Since(began)), answer
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "QUESTION\tFOUND\tP50 ms\tP95 ms\tMAX ms\t")
	for i, q := range asked {
		slices.Sort(took[i])
		at := func(part float64) float64 {
			return float64(took[i][int(part*float64(len(took[i])-1))].Microseconds()) / 1000
		}
		fmt.Fprintf(table, "%s\t%s\t%.1f\t%.1f\t%.1f\t\n", q.name, found[i], at(0.5), at(0.95), at(1))
	}
	return table.Flush()
}
