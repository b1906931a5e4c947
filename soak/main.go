// Command soak proves that Reprise's promises hold under every failure that it
// can cause: see go run . -h.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		if err := runChild(os.Args[2:]); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(command(os.Args[1:], os.Stdout, os.Stderr))
}

// command returns the exit status: 1 when a promise is broken or the soak itself
// failed, 2 for flags that make no sense, 130 when it was interrupted twice.
func command(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "soak:", err)
		return 2
	}
	ctx, faulty, stop := interruptible(stderr)
	defer stop()
	fmt.Fprintf(stderr, "soak: %s, %v of faults, seed %d\n", o.database, o.length, o.seed)
	r, err := o.run(ctx, faulty, stderr)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "soak: interrupted, nothing was checked")
		return 130
	case err != nil:
		fmt.Fprintln(stderr, "soak:", err)
		return 1
	}
	write := r.writeTable
	if o.output == "json" {
		write = r.writeJSON
	}
	if err := write(stdout); err != nil {
		fmt.Fprintln(stderr, "soak:", err)
		return 1
	}
	if !r.Passed {
		fmt.Fprintf(stderr, "soak: a promise is broken; the same faults again: go run . -db %s -server %s -for %v -seed %d\n", o.database, o.server, o.length, o.seed)
		return 1
	}
	return 0
}

// interruptible returns two contexts: the first signal ends faulty, the second
// ends both.
func interruptible(stderr io.Writer) (ctx, faulty context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	faulty, enough := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, end := range []func(){
			func() {
				fmt.Fprintln(stderr, "soak: interrupted: settling and checking; once more to quit at once")
				enough()
			},
			cancel,
		} {
			select {
			case <-signals:
				end()
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, faulty, func() {
		cancel()
		<-ended
		signal.Stop(signals)
	}
}

// options are the command line.
type options struct {
	length, dead, patience     time.Duration
	database, url, output      string
	seed                       uint64
	workers, publishers, peers int
	rate                       float64
	keep                       bool

	server string

	kills, freezes, terminations, restarts, cuts, stalls, slows, replays float64
	suspensions, busies, locks, discards, additions                      float64
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.DurationVar(&o.length, "for", time.Minute, "how long to cause faults; settling and checking come on top")
	flags.StringVar(&o.database, "db", "postgres", "postgres or sqlite; on sqlite there is one process and no server to restart")
	flags.StringVar(&o.url, "url", "", "`URL` of a PostgreSQL server to use, by a role that may create databases; it is not restarted.\nWithout it, a throwaway server is started")
	flags.StringVar(&o.server, "server", "plain", "plain or german: a throwaway server that says everything in German (the system needs the locale de_DE.UTF-8),\nwith serializable transactions by default, in another time zone and with another DateStyle")
	flags.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()%1_000_000), "of the faults: the same ones come at the same times; default a new one, which is printed")
	flags.StringVar(&o.output, "o", "table", "table or json")
	flags.BoolVar(&o.keep, "keep", false, "keep the logs also when every promise was kept")
	flags.IntVar(&o.workers, "workers", 2, "processes that only handle")
	flags.IntVar(&o.publishers, "publishers", 1, "processes that only publish")
	flags.IntVar(&o.peers, "peers", 2, "processes that do both")
	flags.Float64Var(&o.rate, "rate", 0, "events published in a second, in all; default 60, on sqlite 20")
	flags.DurationVar(&o.dead, "dead-after", 4*time.Second, "bus.Config.DeadAfter of the processes; their heartbeat is a quarter of it")
	flags.DurationVar(&o.patience, "patience", time.Minute, "how long nothing may move, once the faults are over, until what is pending is stuck")
	flags.Float64Var(&o.kills, "kills-per-minute", 12, "SIGKILL a process")
	flags.Float64Var(&o.freezes, "freezes-per-minute", 2, "SIGSTOP a process for longer than it takes to be found dead, then SIGCONT it")
	flags.Float64Var(&o.terminations, "terminations-per-minute", 3, "SIGTERM a process")
	flags.Float64Var(&o.restarts, "restarts-per-minute", 1, "stop the database server, as in a shutdown or as in a crash, and start it")
	flags.Float64Var(&o.cuts, "cuts-per-minute", 3, "reset all connections")
	flags.Float64Var(&o.stalls, "stalls-per-minute", 1, "hold back what one process and the database say to each other, for some seconds")
	flags.Float64Var(&o.slows, "slows-per-minute", 1, "add latency to all connections, for some seconds")
	flags.Float64Var(&o.replays, "replays-per-minute", 4, "replay all failed runs of a handler")
	flags.Float64Var(&o.suspensions, "suspensions-per-minute", 1, "SIGSTOP all processes together for longer than it takes to be found dead, then SIGCONT them")
	flags.Float64Var(&o.busies, "busies-per-minute", 1, "run long statements on most connections of a process, for some seconds, while its prepared statements are lost")
	flags.Float64Var(&o.locks, "locks-per-minute", 1, "lock leased runs of a handler in a transaction, for some seconds")
	flags.Float64Var(&o.discards, "discards-per-minute", 2, "DISCARD ALL on connections of a process")
	flags.Float64Var(&o.additions, "additions-per-minute", 1, "add a handler to all processes that handle, and remove it some seconds later")
	flags.Usage = func() { usage(stderr, flags) }
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.rate == 0 {
		o.rate = 60
		if o.database == "sqlite" {
			o.rate = 20
		}
	}
	return o, o.validate(flags.Args())
}

func (o options) validate(rest []string) error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(len(rest) > 0, "%q is no flag", rest)
	bad(o.length <= 0, "-for %v: want a positive duration", o.length)
	bad(o.dead < time.Second, "-dead-after %v: want at least 1s", o.dead)
	bad(o.patience < 4*o.dead, "-patience %v: want at least four times -dead-after %v, by when a dead process has been found", o.patience, o.dead)
	bad(o.database != "postgres" && o.database != "sqlite", "-db %q: want postgres or sqlite", o.database)
	bad(o.database == "sqlite" && o.url != "", "-url is for -db postgres")
	bad(o.server != "plain" && o.server != "german", "-server %q: want plain or german", o.server)
	bad(o.server == "german" && (o.database == "sqlite" || o.url != ""), "-server german is for a throwaway server: leave out -url and -db sqlite")
	bad(o.output != "table" && o.output != "json", "-o %q: want table or json", o.output)
	bad(o.workers < 0 || o.publishers < 0 || o.peers < 0, "-workers, -publishers, -peers: want no negative number")
	bad(o.workers+o.peers < 1, "-workers and -peers are 0: somebody must handle")
	bad(o.publishers+o.peers < 1, "-publishers and -peers are 0: somebody must publish")
	bad(o.rate <= 0, "-rate %v: want a positive number", o.rate)
	return errors.Join(errs...)
}

// rates are those of the faults that the database allows.
func (o options) rates() map[kind]float64 {
	rates := map[kind]float64{faultKill: o.kills, faultTerminate: o.terminations, faultReplay: o.replays, faultSuspend: o.suspensions, faultAdd: o.additions}
	if o.database == "sqlite" { // a process that is frozen alone is nobody's concern
		return rates
	}
	rates[faultFreeze], rates[faultCut], rates[faultStall], rates[faultSlow] = o.freezes, o.cuts, o.stalls, o.slows
	rates[faultBusy], rates[faultLock], rates[faultDiscard] = o.busies, o.locks, o.discards
	if o.url == "" {
		rates[faultRestart] = o.restarts
	}
	return rates
}

func usage(out io.Writer, flags *flag.FlagSet) {
	fmt.Fprint(out, `usage: go run . [flags]

Publishes events and handles them in several processes, kills, freezes, suspends
and ends those processes, restarts their database, cuts, stalls and slows down
their connections to it, keeps these busy or discards their state, locks runs, and
adds and removes handlers; then reads everything that is on record and counts
whether each promise was kept. Exit status 1 means that one was broken.

    go run . -for 20s               a first look
    go run . -for 30m               300 kills and more
    go run . -for 20s -db sqlite    one process on a file
    go run . -for 5m -server german a server with other defaults than most
    go run . -for 20s -seed 7       the faults of seed 7 once more

Interrupted once, it stops the faults, settles, checks and reports; twice, it
quits. It leaves nothing behind, but for the logs when a promise was broken.

Flags:
`)
	flags.PrintDefaults()
}
