package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/store"
)

// grace is what running handlers get when their process is asked to end.
const grace = 3 * time.Second

// soak is one run of this program.
type soak struct {
	options  options
	progress io.Writer
	dir      string
	guard    *guard
	target   *target
	proxies  []*proxy
	crew     *crew
	saboteur *saboteur
	outage   *outages
}

// run soaks until faulty ends, or as long as the options say, then settles and
// audits. When ctx ends it gives up at once. Whatever happens, no process and
// no directory is left, but for the logs when something was wrong.
func (o options) run(ctx, faulty context.Context, progress io.Writer) (r report, err error) {
	dir, err := os.MkdirTemp("", "reprise-soak-")
	if err != nil {
		return r, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the server is another user's
		return r, errors.Join(err, os.RemoveAll(dir))
	}
	g, err := startGuard(dir)
	if err != nil {
		return r, errors.Join(err, os.RemoveAll(dir))
	}
	s := &soak{options: o, progress: progress, dir: dir, guard: g, outage: &outages{}}
	defer func() {
		err = errors.Join(err, s.close())
		keep := o.keep || ctx.Err() == nil && (err != nil || !r.Passed)
		if keep {
			fmt.Fprintf(progress, "kept the logs of all processes and the journals: %s\n", dir)
		}
		if s.target != nil && s.target.server != nil {
			if keep {
				s.target.server.Keep()
				fmt.Fprintf(progress, "kept the database: %s\n", s.target.server.Dir)
			}
			s.target.server.Stop()
		}
		g.release(keep)
	}()
	return s.run(ctx, faulty)
}

func (s *soak) run(ctx, faulty context.Context) (r report, err error) {
	if err := s.open(ctx); err != nil {
		return r, err
	}
	r = report{Database: s.options.database, Seed: s.options.seed}
	began := time.Now()
	if err := s.sabotage(ctx, faulty); err != nil {
		return r, err
	}
	r.Seconds = time.Since(began).Seconds()
	settled := verdict{Promise: "after the last fault every run ends, and dead processes are forgotten"}
	faultless := time.Now()
	if err := s.settle(ctx, &settled); err != nil {
		return r, err
	}
	r.Settled = time.Since(faultless).Seconds()
	s.crew.dismiss(true)
	r.Crew, r.Faults = s.crew.figures(), s.saboteur.figures()
	r.Verdicts = append(r.Verdicts, settled, s.farewell(r.Crew), s.unexplained(r.Crew))
	r.Verdicts = append(r.Verdicts, s.saboteur.spared, s.saboteur.unhindered)
	gone, err := s.nobodyLeft(ctx)
	if err != nil {
		return r, err
	}
	r.Verdicts = append(r.Verdicts, gone)
	verdicts, err := s.audit(ctx)
	if err != nil {
		return r, err
	}
	r.Verdicts = append(r.Verdicts, verdicts...)
	if err := s.target.ask(ctx, `SELECT (SELECT count(*) FROM reprise.events), (SELECT count(*) FROM reprise.handler_runs)`, &r.Events, &r.Runs); err != nil {
		return r, err
	}
	sound, err := s.soundRows(ctx, r.Runs)
	if err != nil {
		return r, err
	}
	r.Verdicts = append(r.Verdicts, sound)
	r.conclude()
	return r, nil
}

func (s *soak) journals() string { return filepath.Join(s.dir, "journals") }
func (s *soak) logs() string     { return filepath.Join(s.dir, "logs") }
func (s *soak) registry() string { return filepath.Join(s.dir, "registrations") }

// open starts everything but the faults.
func (s *soak) open(ctx context.Context) (err error) {
	for _, dir := range []string{s.journals(), s.logs()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if s.target, err = openTarget(ctx, s.options, s.dir); err != nil {
		return err
	}
	tasks, err := s.tasks()
	if err != nil {
		return err
	}
	s.crew = &crew{guard: s.guard, logs: s.logs(), outage: s.outage, limit: grace + time.Minute}
	log, err := os.Create(filepath.Join(s.logs(), "faults.log"))
	if err != nil {
		return err
	}
	s.saboteur = &saboteur{
		dead: s.options.dead, length: s.options.length, replays: &replayer{db: s.target.db}, target: s.target, added: &additions{registry: s.registry()},
		spared:     verdict{Promise: "a process that was only suspended, with all others, or whose connections were busy, is not taken for dead"},
		unhindered: verdict{Promise: "the end of a run does not wait for a run of another handler that is locked"},
		crew:       s.crew, server: s.target.server, proxies: s.proxies, outage: s.outage, done: map[kind]int{},
		log: slog.New(slog.NewTextHandler(log, nil)),
	}
	return s.crew.start(ctx, tasks)
}

// tasks are those of the processes, each behind a proxy of its own. On SQLite
// there is one process, and no proxy.
func (s *soak) tasks() ([]task, error) {
	o := s.options
	if s.target.kind == dialect.SQLite {
		return []task{s.task("peer-1", s.target.url, true, true, o.rate)}, nil
	}
	upstream, err := s.target.upstream()
	if err != nil {
		return nil, err
	}
	var tasks []task
	for _, role := range []struct {
		name               string
		n                  int
		handles, publishes bool
	}{
		{"worker", o.workers, true, false},
		{"publisher", o.publishers, false, true},
		{"peer", o.peers, true, true},
	} {
		for i := range role.n {
			name := fmt.Sprintf("%s-%d", role.name, i+1)
			p, err := startProxy(name, upstream)
			if err != nil {
				return nil, err
			}
			s.proxies = append(s.proxies, p)
			url, err := s.target.through(p)
			if err != nil {
				return nil, err
			}
			tasks = append(tasks, s.task(name, url, role.handles, role.publishes, o.rate/float64(o.publishers+o.peers)))
		}
	}
	return tasks, nil
}

func (s *soak) task(name, url string, handles, publishes bool, rate float64) task {
	return task{
		Name: name, URL: url, Handles: handles, Publishes: publishes, Rate: rate,
		Seed: s.options.seed, Journal: filepath.Join(s.journals(), name), Grace: grace, Dead: s.options.dead,
		Registry: s.registry(),
	}
}

// sabotage causes faults until their time is over, and mends everything.
func (s *soak) sabotage(ctx, faulty context.Context) error {
	faulty, cancel := context.WithTimeout(faulty, s.options.length)
	defer cancel()
	reporting, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(reporting) })
	err := s.saboteur.run(faulty, schedule(s.options.seed, s.options.length, s.options.rates()))
	<-faulty.Done()
	stop()
	watching.Wait()
	return errors.Join(err, ctx.Err(), s.crew.hush())
}

// watch writes a line now and then.
func (s *soak) watch(ctx context.Context) {
	began := time.Now()
	ticker := time.NewTicker(max(5*time.Second, s.options.length/60))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.say(ctx, time.Since(began))
		}
	}
}

// say writes how far it is; that the database is away is worth a line, too.
func (s *soak) say(ctx context.Context, since time.Duration) {
	var events, runs, pending int
	counted := "the database is away"
	if err := s.target.ask(ctx, countAll, &events, &runs, &pending); err == nil {
		counted = fmt.Sprintf("%d events published, %d runs ended, %d pending", events, runs-pending, pending)
	}
	t, f := s.crew.figures(), s.saboteur.figures()
	fmt.Fprintf(s.progress, "%4.0f s: %s; %d kills, %d freezes, %d suspensions, %d terminations, %d restarts, %d cuts, %d stalls\n", since.Seconds(), counted,
		t.Kills+t.Suicides, f[faultFreeze], f[faultSuspend], f[faultTerminate], f[faultRestart], f[faultCut], f[faultStall])
}

const countAll = `SELECT (SELECT count(*) FROM reprise.events), count(*), coalesce(sum(CASE WHEN status = 'PENDING' THEN 1 ELSE 0 END), 0) FROM reprise.handler_runs`

// settle waits until no run is pending and no dead process is remembered. It
// gives up when nothing has moved for long.
func (s *soak) settle(ctx context.Context, v *verdict) error {
	fmt.Fprintln(s.progress, "no more faults; waiting until every run has ended")
	moved, before, said := time.Now(), -1, time.Now()
	for {
		var events, runs, pending int
		if err := s.target.ask(ctx, countAll, &events, &runs, &pending); err != nil {
			return err
		}
		strangers, err := s.strangers(ctx)
		if err != nil {
			return err
		}
		if err := s.saboteur.added.discard(ctx, s.target); err != nil {
			return err
		}
		v.Cases = runs
		left := pending + len(strangers)
		if left == 0 && before == 0 { // twice: a publish may have been under way
			return nil
		}
		if left != before {
			before, moved = left, time.Now()
		}
		if time.Since(moved) > s.options.patience {
			return s.giveUp(ctx, v, pending, strangers)
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			fmt.Fprintf(s.progress, "        %d events published, %d runs ended, %d pending, %d dead processes remembered\n", events, runs-pending, pending, len(strangers))
		}
		pauseFor(ctx, 500*time.Millisecond)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// giveUp describes what is stuck.
func (s *soak) giveUp(ctx context.Context, v *verdict, pending int, strangers []string) error {
	examples, err := s.target.stuck(ctx)
	if err != nil {
		return err
	}
	v.Broken = pending + len(strangers)
	v.Examples = append(examples, strangers...)
	return nil
}

// strangers are registered instances whose process is not there any more.
func (s *soak) strangers(ctx context.Context) ([]string, error) {
	instances, err := s.target.instances(ctx)
	if err != nil {
		return nil, err
	}
	alive := s.crew.pids()
	var strangers []string
	for id, pid := range instances {
		if !alive[pid] {
			strangers = append(strangers, fmt.Sprintf("instance %s is remembered, its process is gone", id))
		}
	}
	return strangers, nil
}

func (s *soak) farewell(t tally) verdict {
	v := verdict{Promise: "a process that gets SIGTERM ends in time, with status 0"}
	v.add(t.Terminated, t.BadExits)
	return v
}

func (s *soak) unexplained(t tally) verdict {
	v := verdict{Promise: "no process ends by itself, but for want of a database"}
	v.add(t.Starts, t.Unexplained)
	return v
}

// soundRows checks what PostgreSQL's tables do not.
func (s *soak) soundRows(ctx context.Context, runs int) (verdict, error) {
	v := verdict{Promise: "no run's columns contradict each other"}
	st, err := store.New(ctx, s.target.db, "")
	if err != nil {
		return v, err
	}
	ids, err := st.Contradictory(ctx, runs)
	if err != nil {
		return v, err
	}
	var broken []string
	for _, id := range ids {
		broken = append(broken, fmt.Sprintf("run %d", id))
	}
	v.add(runs, broken)
	return v, nil
}

// nobodyLeft checks that processes which said farewell are forgotten.
func (s *soak) nobodyLeft(ctx context.Context) (verdict, error) {
	v := verdict{Promise: "a process that has ended well leaves no instance behind"}
	strangers, err := s.strangers(ctx)
	v.add(len(s.crew.members), strangers)
	return v, err
}

// audit checks every event's history.
func (s *soak) audit(ctx context.Context) ([]verdict, error) {
	fmt.Fprintln(s.progress, "all processes have ended; reading the record")
	known, err := readJournals(s.journals())
	if err != nil {
		return nil, err
	}
	all := promises()
	verdicts := make([]verdict, len(all))
	for i, p := range all {
		verdicts[i].Promise = p.name
	}
	added, err := s.saboteur.added.read()
	if err != nil {
		return nil, err
	}
	err = histories(ctx, s.target.db, s.target.kind, known, added, func(h *history) {
		for i, p := range all {
			verdicts[i].add(p.check(h))
		}
	})
	return verdicts, err
}

// close ends what is still running.
func (s *soak) close() error {
	var errs []error
	if s.crew != nil {
		s.crew.dismiss(false)
	}
	for _, p := range s.proxies {
		p.stop()
	}
	if s.target != nil {
		errs = append(errs, s.target.close())
	}
	return errors.Join(errs...)
}
