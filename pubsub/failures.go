package pubsub

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// Limits of what one handler's failures write into the log: linesOfAGroup lines for
// failures that are alike, then one summary each summaryInterval, until an interval
// passes without a failure. The database has all failures.
const (
	linesOfAGroup   = 10
	groupsOfHandler = 20 // further groups of a handler are counted together
	summaryInterval = 30 * time.Second
)

// failures logs failed attempts. Safe for concurrent use.
type failures struct {
	log *slog.Logger

	mu     sync.Mutex
	tally  map[failureGroup]*tally
	groups map[string]int // groups in tally, by handler
}

// failureGroup is a group of failures that are alike. The group without a fingerprint
// holds all others of the handler.
type failureGroup struct{ handler, fingerprint string }

type tally struct {
	lines    int // logged since the group was last quiet for an interval
	attempts int // not logged since the last summary
	failed   int // how many of attempts left a run FAILED
	kind     store.Kind
	last     string // last error
}

func newFailures(log *slog.Logger) *failures {
	return &failures{log: log, tally: map[failureGroup]*tally{}, groups: map[string]int{}}
}

// report logs a failed attempt with a line of its own or, in a storm, as part of a later
// summary. It does not log interrupted attempts.
func (f *failures) report(run *store.Run, policy *handlers.Policy, o queue.Outcome) {
	if o.Failure == nil || o.Failure.Kind == store.KindInterrupted {
		return
	}
	if !f.admit(run.Handler, o) {
		return
	}
	attempts, cycles := policy.Limits()
	attrs := []any{
		"handler", run.Handler, "topic", run.Topic, "run", run.ID, "event", run.EventID, "attempt", run.Attempt,
		"try", fmt.Sprintf("%d of %d", run.Tries, attempts), "cycle", fmt.Sprintf("%d of %d", run.Cycle+1, cycles),
		"kind", o.Failure.Kind, "error", o.Failure.Message,
	}
	if o.Callback != nil {
		attrs = append(attrs, "callback_error", o.Callback.Message)
	}
	if o.Status == store.Failed {
		f.log.Error("run is FAILED: no attempt is left, see its record", attrs...)
		return
	}
	f.log.Warn("attempt failed, the run is tried again", append(attrs, "next", time.Now().Add(o.Delay).UTC().Format(time.RFC3339))...)
}

// admit reports whether the failure gets a line of its own. Otherwise it counts the
// failure.
func (f *failures) admit(handler string, o queue.Outcome) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	group := failureGroup{handler, o.Failure.Fingerprint}
	if f.tally[group] == nil && f.groups[handler] >= groupsOfHandler {
		group.fingerprint = ""
	}
	t := f.tally[group]
	if t == nil {
		t = &tally{}
		f.tally[group] = t
		f.groups[handler]++
	}
	if t.lines < linesOfAGroup {
		t.lines++
		return true
	}
	t.attempts++
	if o.Status == store.Failed {
		t.failed++
	}
	t.kind, t.last = o.Failure.Kind, o.Failure.Message
	return false
}

// loop logs a summary each interval until ctx ends, and a last one then.
func (f *failures) loop(ctx context.Context) {
	ticker := time.NewTicker(summaryInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			f.sumUp()
			return
		case <-ticker.C:
			f.sumUp()
		}
	}
}

// sumUp logs how many failures had no line of their own. A group without such failures
// gets lines again.
func (f *failures) sumUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for group, t := range f.tally {
		if t.attempts == 0 {
			delete(f.tally, group)
			if f.groups[group.handler]--; f.groups[group.handler] == 0 {
				delete(f.groups, group.handler)
			}
			continue
		}
		level := slog.LevelWarn
		if t.failed > 0 {
			level = slog.LevelError
		}
		f.log.Log(context.Background(), level, "more attempts failed than are logged one by one, see `reprise runs groups`",
			"handler", group.handler, "fingerprint", group.fingerprint, "attempts", t.attempts, "failed_runs", t.failed, "kind", t.kind, "last_error", t.last)
		t.attempts, t.failed = 0, 0
	}
}
