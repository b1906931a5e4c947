package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

// lookEvery is the shortest time between two reads of an operation's progress.
const lookEvery = 500 * time.Millisecond

// follow shows the progress of an operation until all of its runs have ended.
func (a *app) follow(ctx context.Context, st *store.Store, id int64) (store.Progress, error) {
	var m *meter
	for {
		began := time.Now()
		p, err := st.Progress(ctx, id)
		if m == nil {
			m = a.meter(fmt.Sprintf("%s %d:", p.Kind, id), max(p.Total.N, p.Taken))
			defer m.clear()
		}
		if err == nil {
			m.set(p.Taken-p.Running-p.Waiting, became(p))
			if p.Over() || p.Kind == store.Publishing { // nobody knows whether a publishing continues
				return p, nil
			}
			err = pause(ctx, max(lookEvery, 4*time.Since(began)))
		}
		if err != nil {
			m.clear()
			if ctx.Err() != nil {
				a.say("It goes on without you. To watch again: reprise replays show %d --wait", id)
			}
			return p, err
		}
	}
}

// became returns what has become of the runs, in words.
func became(p store.Progress) string {
	text := fmt.Sprintf("%s done, %s failed again, %s left", words.Thousands(p.Succeeded), words.Thousands(p.Failed), words.Thousands(p.Left()))
	if p.State != store.Running {
		text += ", " + string(p.State)
	}
	if p.Discarded > 0 {
		text += fmt.Sprintf(", %s discarded", words.Thousands(p.Discarded))
	}
	if p.Arrived.N > 0 {
		text += fmt.Sprintf("; %s more failed meanwhile", p.Arrived)
	}
	return text
}

// pause waits for d, or returns the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
