package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// sparing watches instances that nobody may take for dead. An instance counts when
// its process was not killed, frozen or asked to end meanwhile, and when it held
// runs, without which its death would leave no trace.
type sparing struct {
	since     time.Time
	attempts  int64           // the highest id of an attempt on record at the beginning
	instances map[string]int  // pid by id
	holding   map[string]bool // by id
}

// watch begins with the instances that are well now.
func (s *saboteur) watch(ctx context.Context) (*sparing, error) {
	st, err := s.store(ctx)
	if err != nil {
		return nil, errTooSoon
	}
	living, err := st.Instances(ctx)
	if err != nil {
		return nil, errTooSoon
	}
	w := &sparing{since: time.Now(), instances: map[string]int{}, holding: map[string]bool{}}
	for _, l := range living {
		if l.Silence < l.DeadAfter/2 {
			w.instances[l.ID] = l.PID
		}
	}
	if err := s.target.ask(ctx, `SELECT coalesce(max(id), 0) FROM reprise.run_attempts`, &w.attempts); err != nil {
		return nil, errTooSoon
	}
	return w, nil
}

// holders notes which instances hold runs at this moment.
func (w *sparing) holders(ctx context.Context, t *target) error {
	return t.each(ctx, `SELECT DISTINCT instance FROM reprise.handler_runs WHERE status = 'PENDING' AND due_at IS NULL`, func(scan func(...any) error) error {
		var id string
		if err := scan(&id); err != nil {
			return err
		}
		w.holding[id] = true
		return nil
	})
}

// count counts which of them were spared, of the processes that only selects. An
// outage meanwhile leaves nothing to count.
func (s *saboteur) count(ctx context.Context, w *sparing, only func(pid int) bool) error {
	abandoned := map[string][]string{} // runs, by instance
	err := s.target.each(ctx, fmt.Sprintf(`SELECT coalesce(instance, ''), run_id, attempt FROM reprise.run_attempts WHERE kind = 'abandoned' AND id > %d`, w.attempts),
		func(scan func(...any) error) error {
			var id string
			var run int64
			var attempt int
			if err := scan(&id, &run, &attempt); err != nil {
				return err
			}
			abandoned[id] = append(abandoned[id], fmt.Sprintf("attempt %d of run %d", attempt, run))
			return nil
		})
	undisturbed := s.crew.undisturbed(w.since)
	if s.outage.since(w.since) {
		return nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, pid := range w.instances {
		if !undisturbed[pid] || !only(pid) || !w.holding[id] {
			continue
		}
		var broken []string
		if runs := abandoned[id]; len(runs) > 0 {
			broken = append(broken, fmt.Sprintf("instance %s was taken for dead between %v and %v, and with it %s",
				id, w.since.Format(time.TimeOnly+".000"), time.Now().Format(time.TimeOnly+".000"), strings.Join(runs, ", ")))
		}
		s.spared.add(1, broken)
	}
	return nil
}

// suspend suspends all processes together, lets them go on, and looks whether any
// was taken for dead because of that. Nobody is killed and there is no outage
// meanwhile, but handlers may kill their process.
func (s *saboteur) suspend(ctx context.Context, lasting time.Duration) error {
	s.calm.Lock()
	defer s.calm.Unlock()
	w, err := s.watch(ctx)
	if err != nil {
		return err
	}
	var asked error
	s.crew.suspend(ctx, lasting, func() { asked = w.holders(ctx, s.target) })
	if ctx.Err() != nil {
		return errTooLate
	}
	if asked != nil {
		return asked
	}
	// All judge each other anew, for as long as DeadAfter and a heartbeat, also
	// when the time for faults is over.
	ctx = context.WithoutCancel(ctx)
	pauseFor(ctx, s.dead+s.dead/4)
	return s.count(ctx, w, func(int) bool { return true })
}

// busyConns is how many connections of a child's pool long statements take.
const busyConns = maxConns * 3 / 4

// busy keeps most connections of a process busy with long statements.
func (s *saboteur) busy(ctx context.Context, rng *rand.Rand, lasting time.Duration) (err error) {
	late := s.toOne(ctx, rng, func(m *member) {
		var w *sparing
		if w, err = s.watch(ctx); err != nil {
			return
		}
		pid := s.crew.order(m, order{Do: orderBusy, Conns: busyConns, For: lasting})
		for until := time.Now().Add(lasting); time.Now().Before(until) && ctx.Err() == nil; pauseFor(ctx, lasting/8) {
			_ = w.holders(ctx, s.target) // at one moment or another; the database may be away
		}
		if err = s.count(ctx, w, func(other int) bool { return other == pid }); ctx.Err() != nil {
			err = errTooLate
		}
	})
	if late != nil {
		return late
	}
	return err
}
