package main

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/internal/pgserver"
)

// What keeps a fault from being one, and is no error.
var (
	errTooLate = errors.New("the time for faults is over")
	errTooSoon = errors.New("the database is not there")
)

// saboteur causes the faults of a schedule.
type saboteur struct {
	crew    *crew
	server  *pgserver.Server // nil when it is not ours
	proxies []*proxy
	outage  *outages
	dead    time.Duration // of silence until a process is taken for dead
	length  time.Duration // of all faults together
	replays *replayer
	added   *additions
	target  *target
	log     *slog.Logger

	// calm is held to kill or end a process, and while the database is out of
	// somebody's reach; all of it while all processes are suspended and judge each
	// other afterwards, or while others' ends are measured beside a lock.
	calm sync.RWMutex

	mu   sync.Mutex
	done map[kind]int
	// What the faults themselves find out; mu guards both.
	spared, unhindered verdict
}

// run causes the faults at their times, or at once when ctx ends: then it
// mends what is broken and returns, though a suspension is watched to its end.
// Faults of different sorts overlap each other; those of one do not, lest a process be asked to say farewell to a database
// that is away.
func (s *saboteur) run(ctx context.Context, faults []fault) error {
	lanes := [][]kind{{faultKill}, {faultFreeze}, {faultTerminate, faultRestart, faultCut, faultStall, faultSlow},
		{faultReplay, faultDiscard}, {faultSuspend}, {faultBusy, faultLock}, {faultAdd}}
	errs := make([]error, len(lanes))
	began := time.Now()
	var running sync.WaitGroup
	for i, lane := range lanes {
		running.Go(func() { errs[i] = s.runLane(ctx, began, faults, lane) })
	}
	running.Wait()
	return errors.Join(errs...)
}

func (s *saboteur) runLane(ctx context.Context, began time.Time, faults []fault, lane []kind) error {
	for _, f := range faults {
		if !contains(lane, f.kind) {
			continue
		}
		pauseFor(ctx, time.Until(began.Add(f.at)))
		if ctx.Err() != nil {
			return nil
		}
		if err := s.cause(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func contains(lane []kind, k kind) bool {
	for _, other := range lane {
		if other == k {
			return true
		}
	}
	return false
}

// cause causes one fault and returns when it is over. Its error is one of
// ours, not of what is tested.
func (s *saboteur) cause(ctx context.Context, f fault) error {
	rng := rand.New(rand.NewPCG(f.seed, 0))
	begun := time.Now()
	if err := s.do(ctx, f.kind, rng); errors.Is(err, errTooLate) || errors.Is(err, errTooSoon) {
		return nil
	} else if err != nil {
		return err
	}
	s.log.Info("fault", "kind", f.kind, "began", begun.Format(time.TimeOnly+".000"), "took", time.Since(begun).Round(time.Millisecond))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[f.kind]++
	return nil
}

func (s *saboteur) do(ctx context.Context, k kind, rng *rand.Rand) error {
	switch k {
	case faultKill:
		return s.disturb(ctx, func() error { return s.toOne(ctx, rng, s.crew.kill) })
	case faultFreeze:
		return s.toOne(ctx, rng, func(m *member) { s.crew.freeze(ctx, m, s.dead+between(rng, time.Second, 5*time.Second)) })
	case faultTerminate:
		return s.disturb(ctx, func() error { return s.toOne(ctx, rng, s.crew.terminate) })
	case faultRestart:
		return s.away(ctx, func() error { return s.restart(ctx, rng) })
	case faultCut:
		down := between(rng, 0, 500*time.Millisecond)
		return s.away(ctx, func() error {
			s.toAll(func(p *proxy) { p.cut(ctx, down) })
			return nil
		})
	case faultStall:
		p := s.proxies[rng.IntN(len(s.proxies))]
		lasting := s.atMost(between(rng, time.Second, s.dead+5*time.Second))
		return s.away(ctx, func() error {
			p.delay(ctx, time.Hour, lasting)
			return nil
		})
	case faultReplay:
		return s.replays.replay(ctx, rng)
	case faultSuspend:
		return s.suspend(ctx, s.dead+between(rng, time.Second, 2*time.Second))
	case faultBusy:
		return s.busy(ctx, rng, s.atMost(s.dead+between(rng, time.Second, 4*time.Second)))
	case faultLock:
		if rng.IntN(3) == 0 || s.length < time.Minute { // while processes die and the database goes away
			return s.lock(ctx, s.atMost(between(rng, time.Second, s.dead+5*time.Second)), false)
		}
		s.calm.Lock()
		defer s.calm.Unlock()
		return s.lock(ctx, endsAfter+between(rng, time.Second, s.dead+time.Second), true)
	case faultDiscard:
		return s.toOne(ctx, rng, func(m *member) { s.crew.order(m, order{Do: orderDiscard, Conns: 8}) })
	case faultAdd:
		return s.addHandler(ctx, between(rng, 3*time.Second, 10*time.Second))
	default:
		latency := between(rng, time.Millisecond, 100*time.Millisecond)
		lasting := between(rng, time.Second, 4*time.Second)
		s.toAll(func(p *proxy) { p.delay(ctx, latency, lasting) })
		return nil
	}
}

// disturb does something that must not come between while calm is needed.
func (s *saboteur) disturb(ctx context.Context, f func() error) error {
	s.calm.RLock()
	defer s.calm.RUnlock()
	if ctx.Err() != nil {
		return errTooLate
	}
	return f()
}

// away marks an outage for as long as f takes.
func (s *saboteur) away(ctx context.Context, f func() error) error {
	return s.disturb(ctx, func() error { return s.outage.during(f) })
}

// toOne does something to a process as soon as there is one that nobody is at.
func (s *saboteur) toOne(ctx context.Context, rng *rand.Rand, do func(*member)) error {
	for {
		if m, ok := s.crew.reserve(rng); ok {
			defer s.crew.unreserve(m)
			do(m)
			return nil
		}
		pauseFor(ctx, 20*time.Millisecond)
		if ctx.Err() != nil {
			return errTooLate
		}
	}
}

func (s *saboteur) toAll(do func(*proxy)) {
	var doing sync.WaitGroup
	for _, p := range s.proxies {
		doing.Go(func() { do(p) })
	}
	doing.Wait()
}

// restart stops the database, in either way, and starts it again after a
// while.
func (s *saboteur) restart(ctx context.Context, rng *rand.Rand) error {
	crash := rng.IntN(2) == 0
	down := between(rng, 0, 3*time.Second)
	if !crash {
		s.server.Halt()
	} else if err := s.server.Crash(); err != nil {
		return err
	}
	pauseFor(ctx, down)
	return s.server.Launch(context.WithoutCancel(ctx))
}

// atMost shortens a fault of a short soak, which is to have others as well.
func (s *saboteur) atMost(lasting time.Duration) time.Duration { return min(lasting, s.length/5) }

func between(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rng.Int64N(int64(high-low)))
}

// figures returns how many faults of each kind there were.
func (s *saboteur) figures() map[kind]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	figures := map[kind]int{}
	for k, n := range s.done {
		figures[k] = n
	}
	return figures
}
