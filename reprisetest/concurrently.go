package reprisetest

import (
	"cmp"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/pubsub"
)

// Concurrently runs the handler on the events as Run does, but at once: as many of them
// as the handler's Policy.Concurrency allows, or 16 as on the bus. It returns the result
// of each run, in the order of the events.
//
// It finds faults that need concurrent runs, such as a handler that reads a row, computes
// and writes it back: use WithDB and compare the sum of the rows. Runs must overlap to
// show such a fault, so use a hundred events rather than two, and a real database. A
// transaction that the database refuses is tried again, as on the bus. The handler is
// called in other goroutines than the test's: use t.Error there, not t.Fatal.
func Concurrently[E any](t testing.TB, h cqrs.EventHandler, events []E, options ...Option) []Result {
	t.Helper()
	s := newSettings(t, options)
	if err := handlers.Validate(h); err != nil {
		t.Fatalf("reprisetest: %v", err)
	}
	courses := make([]func() (Result, error), len(events))
	for i, event := range events {
		e, err := s.event(t.Context(), s.events(), event)
		if err != nil {
			t.Fatalf("reprisetest: %v", err)
		}
		if takes := s.marshaler.Name(h.NewEvent()); takes != e.Topic {
			t.Fatalf("reprisetest: handler %q takes events on topic %q, and would never get this %T on topic %q", h.HandlerName(), takes, event, e.Topic)
		}
		run := newRun(int64(i+1), h, e)
		courses[i] = func() (Result, error) { return s.course(t.Context(), h, handlers.PolicyOf(h), e, run) }
	}
	results, errs := make([]Result, len(events)), make([]error, len(events))
	slots := make(chan struct{}, cmp.Or(handlers.PolicyOf(h).Concurrency, pubsub.DefaultConcurrency))
	begin := make(chan struct{})
	var running sync.WaitGroup
	for i, course := range courses {
		running.Go(func() {
			<-begin
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i], errs[i] = course()
		})
	}
	close(begin)
	running.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatalf("reprisetest: %v", err)
		}
	}
	return results
}
