// Command bench runs Reprise beside what a user would pick instead, on the same Postgres and the
// same Kafka.
//
// Every system runs in a process of its own and on a database of its own, which is dropped after
// the trial. The works are written once for all systems (works.go): a process is driven by lines
// of JSON (serve.go), which Node speaks too (graphile/graphile.mjs).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == childArg {
		signal.Ignore(os.Interrupt) // the parent has it too, and ends its children
		if err := runChild(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := exec(ctx, os.Args[1:], os.Stdout, os.Stderr)
	interrupted := ctx.Err() != nil
	stop()
	var child *childEnd
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.As(err, &child): // it has said why
		os.Exit(child.code)
	case interrupted:
		fmt.Fprintln(os.Stderr, "bench: interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// childArg as the first argument makes this program the process that runs one system.
const childArg = "child"

func runChild(name string) error {
	s := systemNamed(name)
	if s == nil || s.open == nil {
		return fmt.Errorf("%q is not a system of this program", name)
	}
	return serve(context.Background(), s.open, os.Stdin, os.Stdout)
}

// options are the command line.
type options struct {
	systems, works string
	history        string
	rounds, n      int
	limit          time.Duration
	output         string
	svg, results   string
	databaseURL    string
	brokers        string
}

func exec(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.systems, "systems", "all", "`names` of systems, with commas, or all")
	flags.StringVar(&o.works, "works", "all", "`names` of works, with commas, or all")
	flags.StringVar(&o.history, "history", "0,1000000,10000000", "finished runs that the work history starts from; `numbers` with commas")
	flags.IntVar(&o.rounds, "rounds", 3, "how often everything is done, in turn; the medians are reported")
	flags.IntVar(&o.n, "n", drainEvents, "events of drain; the other works follow in proportion")
	flags.DurationVar(&o.limit, "limit", 30*time.Second, "how long one measurement may take; what was done until then counts")
	flags.StringVar(&o.output, "o", "table", "table or json: a line for each system and work")
	flags.StringVar(&o.svg, "svg", "", "also write bar charts to this `file`")
	flags.StringVar(&o.results, "results", "", "also write the figures, with the machine and all versions, to this `file` (Markdown)")
	flags.StringVar(&o.databaseURL, "database-url", os.Getenv(urlVariable), "`URL` of a Postgres server, by a role that may create databases;\nwithout it and without "+urlVariable+", a throwaway server is started")
	flags.StringVar(&o.brokers, "kafka-brokers", os.Getenv(brokersVariable), "`host:port` of Kafka brokers, with commas, for the works on Kafka;\nwithout it and without "+brokersVariable+", a throwaway broker is started, which takes Java;\nwithout Java these works are left out")
	flags.Usage = func() { usage(stderr, flags) }
	if err := flags.Parse(args); err != nil {
		return err
	}
	p, err := o.plan(flags.Args())
	if err != nil {
		return err
	}
	onKafka := slices.ContainsFunc(p.works, func(w *work) bool { return w.kafka })
	if postgres, kafka := o.databaseURL == "", o.brokers == "" && onKafka; postgres || kafka {
		return underThrowawayServers(ctx, postgres, kafka, args, stdout, stderr)
	}
	if onKafka && os.Getenv(kafkaVariable) != noKafka {
		if p.kafka, err = connectKafka(o.brokers); err != nil {
			return err
		}
		defer p.kafka.close()
	}
	if p.cluster, err = connect(ctx, o.databaseURL); err != nil {
		return err
	}
	defer p.cluster.close()
	p.log = stderr
	p.commit = commit(ctx) // before any file of the repository is written

	results, failed := p.run(ctx)
	return errors.Join(failed, o.report(context.WithoutCancel(ctx), args, p, results, stdout))
}

// plan checks the options; it makes everything of a plan that needs no server.
func (o options) plan(rest []string) (p plan, err error) {
	var errs []error
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("%q is no flag", rest[0]))
	}
	if o.rounds < 1 {
		errs = append(errs, errors.New("-rounds must be at least 1"))
	}
	if o.n < 1 {
		errs = append(errs, errors.New("-n must be at least 1"))
	}
	if o.limit <= 0 {
		errs = append(errs, errors.New("-limit must be more than 0"))
	}
	if o.output != "table" && o.output != "json" {
		errs = append(errs, fmt.Errorf("-o: %q is neither table nor json", o.output))
	}
	var histories []int
	for s := range strings.SplitSeq(o.history, ",") {
		k, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || k < 0 {
			errs = append(errs, fmt.Errorf("-history: %q is no number of runs", s))
			continue
		}
		histories = append(histories, k)
	}
	p = plan{rounds: o.rounds, scale: float64(o.n) / drainEvents, limit: o.limit}
	names, err := choose("systems", o.systems, systemNames())
	errs = append(errs, err)
	for _, name := range names {
		p.systems = append(p.systems, systemNamed(name))
	}
	names, err = choose("works", o.works, workNames())
	errs = append(errs, err)
	for _, name := range names {
		p.works = append(p.works, worksNamed(name, histories)...)
	}
	p.works = slices.DeleteFunc(p.works, func(w *work) bool {
		return !slices.ContainsFunc(p.systems, w.does)
	})
	if len(names) > 0 && len(p.works) == 0 && len(p.systems) > 0 {
		errs = append(errs, fmt.Errorf("-works: none of them is done by these systems: %s", doers(names)))
	}
	return p, errors.Join(errs...)
}

// doers says which systems do the works of these names.
func doers(works []string) string {
	var all []string
	for _, name := range works {
		var does []string
		for _, s := range systems {
			if worksNamed(name, []int{0})[0].does(s) {
				does = append(does, s.name)
			}
		}
		all = append(all, name+" is done by "+strings.Join(does, ", "))
	}
	return strings.Join(all, "; ")
}

func (o options) report(ctx context.Context, args []string, p plan, rs []result, stdout io.Writer) error {
	if len(rs) == 0 {
		return nil
	}
	var errs []error
	switch o.output {
	case "json":
		errs = append(errs, writeJSON(stdout, rs))
	default:
		errs = append(errs, writeTable(stdout, rs))
	}
	if o.svg != "" {
		errs = append(errs, toFile(o.svg, func(w io.Writer) error { return writeSVG(w, rs) }))
	}
	if o.results != "" {
		errs = append(errs, toFile(o.results, func(w io.Writer) error { return writeResults(ctx, w, args, p, rs) }))
	}
	return errors.Join(errs...)
}

func toFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func usage(out io.Writer, flags *flag.FlagSet) {
	fmt.Fprint(out, `usage: go run . [flags]

Runs Reprise beside other systems on the same Postgres, and the same Kafka, and compares them.

    go run .                                            everything: hours
    go run . -works drain,latency -rounds 1 -n 5000     a first look: minutes
    go run . -works kafka,outbox-down -rounds 1         the same of Kafka
    go run . -results RESULTS.md -svg results.svg       keep what was measured

Systems:
`)
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range systems {
		fmt.Fprintf(tw, "  %s\t%s\n", s.name, s.about)
	}
	tw.Flush()
	fmt.Fprint(out, "\nWorks, with their number of events at -n "+strconv.Itoa(drainEvents)+":\n")
	for _, w := range works {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", w.name, thousands(w.n), w.about)
	}
	tw.Flush()
	fmt.Fprint(out, "\nFlags:\n")
	flags.PrintDefaults()
}
