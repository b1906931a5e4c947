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
	replays *replayer
	log     *slog.Logger

	mu   sync.Mutex
	done map[kind]int
}

// run causes the faults at their times, or at once when ctx ends: then it
// mends what is broken and returns. Faults of different sorts overlap each other;
// those of one do not, lest a process be asked to say farewell to a database
// that is away.
func (s *saboteur) run(ctx context.Context, faults []fault) error {
	lanes := [][]kind{{faultKill}, {faultFreeze}, {faultTerminate, faultRestart, faultCut, faultStall, faultSlow}, {faultReplay}}
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
		return s.toOne(ctx, rng, s.crew.kill)
	case faultFreeze:
		return s.toOne(ctx, rng, func(m *member) { s.crew.freeze(ctx, m, s.dead+between(rng, time.Second, 5*time.Second)) })
	case faultTerminate:
		return s.toOne(ctx, rng, s.crew.terminate)
	case faultRestart:
		return s.outage.during(func() error { return s.restart(ctx, rng) })
	case faultCut:
		down := between(rng, 0, 500*time.Millisecond)
		return s.outage.during(func() error { return s.toAll(func(p *proxy) error { return p.cut(ctx, down) }) })
	case faultStall:
		p := s.proxies[rng.IntN(len(s.proxies))]
		lasting := between(rng, time.Second, s.dead+5*time.Second)
		return s.outage.during(func() error {
			p.delay(ctx, time.Hour, lasting)
			return nil
		})
	case faultReplay:
		return s.replays.replay(ctx, rng)
	default:
		latency := between(rng, time.Millisecond, 100*time.Millisecond)
		lasting := between(rng, time.Second, 4*time.Second)
		return s.toAll(func(p *proxy) error {
			p.delay(ctx, latency, lasting)
			return nil
		})
	}
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

func (s *saboteur) toAll(do func(*proxy) error) error {
	errs := make([]error, len(s.proxies))
	var doing sync.WaitGroup
	for i, p := range s.proxies {
		doing.Go(func() { errs[i] = do(p) })
	}
	doing.Wait()
	return errors.Join(errs...)
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
