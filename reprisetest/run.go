package reprisetest

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// Run runs the handler on the event, by the handler's policy and with its callbacks,
// until the run is SUCCESS or FAILED, and returns the result. A FAILED run does not fail
// the test. The event is one to publish, or a replay.Document (see Load), which is run as
// a replay.
func Run(t testing.TB, h cqrs.EventHandler, event any, options ...Option) Result {
	t.Helper()
	s := newSettings(t, options)
	if err := handlers.Validate(h); err != nil {
		t.Fatalf("reprisetest: %v", err)
	}
	if d, ok := event.(replay.Document); ok {
		return s.again(t, h, handlers.PolicyOf(h), d)
	}
	e, err := s.event(t.Context(), s.events(), event)
	if err != nil {
		t.Fatalf("reprisetest: %v", err)
	}
	takes, err := handlers.Accepts(s.marshaler, h.NewEvent())
	if err != nil {
		t.Fatalf("reprisetest: handler %q: %v", h.HandlerName(), err)
	}
	if takes != e.Topic {
		t.Fatalf("reprisetest: handler %q takes events on topic %q, and would never get this %T on topic %q", h.HandlerName(), takes, event, e.Topic)
	}
	result, err := s.course(t.Context(), h, handlers.PolicyOf(h), e, newRun(1, h, e))
	if err != nil {
		t.Fatalf("reprisetest: %v", err)
	}
	return result
}

// Replay runs the handler on an event of production: file is an exported run, a
// replay.Document. It makes one attempt, as the bus would, with the policy's timeout and
// without its callbacks. After a snooze it makes another. If the attempt fails, the test
// fails with a message that says whether production had the same failure.
func Replay(t testing.TB, h cqrs.EventHandler, file string, options ...Option) Result {
	t.Helper()
	s := newSettings(t, options)
	if err := handlers.Validate(h); err != nil {
		t.Fatalf("reprisetest: %v", err)
	}
	policy := handlers.PolicyOf(h)
	policy.Attempts, policy.Cycles, policy.OnFailure, policy.OnExhausted = 1, 1, nil, nil
	d := Load(t, file)
	result := s.again(t, h, policy, d)
	if result.Status == store.Failed {
		t.Errorf("reprisetest: %s", report(d, result))
	}
	return result
}

// Load reads an exported run. If that fails, it ends the test.
func Load(t testing.TB, file string) replay.Document {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatalf("reprisetest: %v", err)
	}
	d, err := replay.ReadDocument(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatalf("reprisetest: %s: %v", file, err)
	}
	return d
}

// again runs the handler on the document's event, from the first try of the first cycle.
func (s *settings) again(t testing.TB, h cqrs.EventHandler, policy handlers.Policy, d replay.Document) Result {
	t.Helper()
	run := d.Run()
	if run.Handler != h.HandlerName() {
		t.Fatalf("reprisetest: the document is a run of handler %q, and this is handler %q: if it was renamed, write its name into the document", run.Handler, h.HandlerName())
	}
	run.Status, run.Tries, run.Cycle = store.Pending, 0, 0
	result, err := s.course(t.Context(), h, policy, d.Event(), run)
	if err != nil {
		t.Fatalf("reprisetest: %v", err)
	}
	if result.Err != nil {
		fingerprint := handlers.Failure(run.Handler, result.Err).Fingerprint
		for _, a := range append(d.Attempts(), lastFailure(d)) {
			if store.Fingerprint(run.Handler, a.Kind, a.Message) == fingerprint {
				result.Reproduced = true
			}
		}
	}
	return result
}

// lastFailure returns the run's last error, or else its last failed attempt.
func lastFailure(d replay.Document) store.Attempt {
	if run := d.Run(); run.ErrorKind != "" {
		return store.Attempt{Kind: run.ErrorKind, Message: run.Error}
	}
	var last store.Attempt
	for _, a := range d.Attempts() {
		if a.Kind != store.KindCallback {
			last = a
		}
	}
	return last
}

// report describes how a handler failed, and how it failed in production.
func report(d replay.Document, result Result) string {
	run, now, then := d.Run(), handlers.Failure(d.Run().Handler, result.Err), lastFailure(d)
	which := fmt.Sprintf("handler %q fails on event %q of topic %q", run.Handler, run.EventID, run.Topic)
	var text string
	switch {
	case result.Reproduced:
		text = fmt.Sprintf("%s as it did in production (run %d): %s: %s", which, run.ID, now.Kind, now.Message)
	case then.Kind == "":
		text = fmt.Sprintf("%s; in production it did not (run %d): %s: %s", which, run.ID, now.Kind, now.Message)
	default:
		text = fmt.Sprintf("%s, but not as it did in production (run %d):\n\tnow:  %s: %s\n\tthen: %s: %s", which, run.ID, now.Kind, now.Message, then.Kind, then.Message)
	}
	if now.Stack != "" {
		text += "\n" + now.Stack
	}
	return text
}
