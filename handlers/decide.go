package handlers

import (
	"errors"
	"fmt"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// Decide returns the outcome of an attempt that ended with err, which may be nil. run is
// the run as it was when the attempt began. Decide changes nothing.
func (p Policy) Decide(run store.Run, err error) queue.Outcome {
	p = p.withDefaults()
	if err == nil {
		return queue.Outcome{Status: store.Success}
	}
	failure := Failure(run.Handler, err)
	var (
		snoozed *snooze
		earlier *recorded
	)
	failed := queue.Outcome{Status: store.Failed, Failure: &failure, OnRecord: errors.As(err, &earlier) && earlier.onRecord}
	again := failed
	again.Status = store.Pending
	switch {
	case failure.Kind == store.KindPermanent, failure.Kind == store.KindUndecodable, failure.Kind == store.KindLost:
		return failed
	case failure.Kind != store.KindSkipCycle && failure.Kind != store.KindPanic && errors.As(err, &snoozed):
		if p.snoozedOut(run) {
			failed.Failure = store.NewFailure(run.Handler, store.KindSnooze,
				fmt.Sprintf("the handler snoozed too often, Policy.MaxSnoozes allows %d; the last time: %s", p.MaxSnoozes, failure.Message))
			return failed
		}
		return queue.Outcome{Status: store.Pending, Delay: snoozed.d, Refund: true}
	case failure.Kind != store.KindSkipCycle && run.Tries < p.Attempts:
		again.Delay = p.Backoff.wait(run.Tries)
		return again
	case run.Cycle+1 < p.Cycles:
		again.Delay, again.NextCycle = p.CycleInterval, true
		return again
	default:
		return failed
	}
}

// snoozedOut reports whether the run has snoozed as often as the policy allows. The run
// does not store how often it snoozed since its last replay. So in a replayed run each
// MaxSnoozes-th snooze of its life is the last.
func (p Policy) snoozedOut(run store.Run) bool {
	snoozes := run.Attempt - run.Tries
	switch {
	case p.MaxSnoozes < 0 || snoozes < p.MaxSnoozes:
		return false
	case run.ReplayID != 0:
		return snoozes%p.MaxSnoozes == 0
	}
	return true
}

// Exhausted reports whether the tries of the run's cycle were used up before the current
// attempt. Then the handler is not called, and LastError is the error to decide by.
func (p Policy) Exhausted(run store.Run) bool {
	return run.Tries > p.withDefaults().Attempts
}
