package cli

import (
	"context"
	"fmt"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// follow shows the progress of an operation until all of its runs have ended.
func (a *app) follow(ctx context.Context, st *store.Store, id int64) (store.Progress, error) {
	var m *meter
	p, err := replay.Wait(ctx, st, id, func(p store.Progress) {
		if m == nil {
			m = a.meter(fmt.Sprintf("%s %d:", p.Kind, id), max(p.Total.N, p.Taken))
		}
		m.set(p.Taken-p.Running-p.Waiting, became(p))
	})
	if m != nil {
		m.clear()
	}
	if err != nil && ctx.Err() != nil {
		a.say("It goes on without you. To watch again: reprise replays show %d --wait", id)
	}
	return p, err
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
