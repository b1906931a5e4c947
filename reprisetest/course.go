package reprisetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/store"
)

// Result is the result of a run.
type Result struct {
	Status   store.Status    // SUCCESS or FAILED
	Attempts []store.Attempt // what the database would keep: failed attempts and failed callbacks
	Waited   time.Duration   // from the first attempt to the last: backoff, cycle intervals, snoozes
	Err      error           // of the last attempt; nil for SUCCESS

	// Reproduced reports that the last attempt failed like one in production: same
	// handler, same kind and a similar message. It is set for a run on a replay.Document.
	Reproduced bool
}

const (
	instance = "reprisetest"
	endless  = 10_000 // attempts
)

// course executes a run from its next attempt to its end, as the policy decides. It
// advances a clock instead of waiting.
func (s *settings) course(ctx context.Context, h cqrs.EventHandler, policy handlers.Policy, e store.Event, run store.Run) (result Result, err error) {
	if policy.Transactional && s.db == nil {
		return result, fmt.Errorf("handler %q is transactional: give it a database with reprisetest.WithDB(db)", run.Handler)
	}
	policy.Backoff.Jitter = -1
	now := func() time.Time { return time.Now().Add(result.Waited).UTC() }
	run.Instance = instance
	for range endless {
		run.Attempt++
		run.Tries++
		started := now()
		run.StartedAt = started
		if run.PublishedAt.IsZero() {
			run.PublishedAt = started
		}
		var o queue.Outcome
		o, result.Err = s.attempt(ctx, h, policy, e, run)
		for _, failure := range []*store.Failure{o.Failure, o.Callback} {
			if failure != nil {
				result.Attempts = append(result.Attempts, store.Attempt{
					RunID: run.ID, Attempt: run.Attempt, Cycle: run.Cycle, Kind: failure.Kind, Message: failure.Message, Stack: failure.Stack,
					Instance: instance, StartedAt: started, FinishedAt: now(),
				})
			}
		}
		if result.Status = o.Status; o.Status != store.Pending {
			return result, nil
		}
		result.Waited += o.Delay
		if o.Failure != nil {
			run.ErrorKind, run.Error, run.Fingerprint = o.Failure.Kind, o.Failure.Message, o.Failure.Fingerprint
		}
		if o.Refund {
			run.Tries--
		}
		if o.NextCycle {
			run.Cycle, run.Tries = run.Cycle+1, 0
		}
	}
	return result, fmt.Errorf("handler %q has been called %d times on one event, %v have passed by its clock, and its policy has no end: does it snooze for ever?", run.Handler, endless, result.Waited)
}

// attempt calls the handler once, inside the middleware of the bus.
func (s *settings) attempt(ctx context.Context, h cqrs.EventHandler, policy handlers.Policy, e store.Event, run store.Run) (o queue.Outcome, err error) {
	delivery := handlers.NewDelivery(&run, &policy, func(reported queue.Outcome, _ bool) error {
		o = reported
		return nil
	})
	msg := message.NewMessage(e.ID, bytes.Clone(e.Payload))
	for k, v := range e.Metadata {
		msg.Metadata.Set(k, v)
	}
	ctx, cancel := context.WithCancel(handlers.WithDelivery(ctx, delivery))
	defer cancel()
	msg.SetContext(cqrs.CtxWithOriginalMessage(ctx, msg))

	around := []message.HandlerMiddleware{middleware.Record(nil)} // Record finds the delivery and needs no store
	around = append(around, s.middleware...)
	if timeout := policy.AttemptTimeout(); timeout > 0 {
		around = append(around, middleware.Timeout(timeout))
	}
	if policy.Transactional {
		around = append(around, s.transaction(policy.Isolation))
	}
	consume := handlers.Func(h, s.marshaler)
	handle := func(msg *message.Message) ([]*message.Message, error) { return nil, consume(msg) }
	for _, m := range slices.Backward(around) {
		handle = m(handle)
	}
	_, err = handle(msg)
	return o, err
}
