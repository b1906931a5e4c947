package handlers

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/reprise-bus/reprise/store"
)

// This file has both directions of a handler's error: what a handler returns to say
// more than "failed" (Permanent, SkipCycle, Snooze, Undecodable), and Failure, which
// makes of any error the kind and the message that go on record. Policy.Decide, in
// decide.go, makes of the kind what becomes of the run.

// Undecodable marks an error as one of the payload: the handler cannot read
// the event, and will not the next time. Func does it for the payloads that
// the marshaler refuses; a handler that decodes by itself can say so too.
func Undecodable(err error) error {
	if err == nil {
		return nil
	}
	return &undecodable{err}
}

type undecodable struct{ err error }

func (u *undecodable) Error() string { return u.err.Error() }
func (u *undecodable) Unwrap() error { return u.err }

// PanicError is the error of a handler that panicked.
type PanicError struct {
	Value any    // what was given to panic
	Stack string // of the goroutine that panicked
}

func (p *PanicError) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Unwrap returns the error that was given to panic, if it was one.
func (p *PanicError) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// Permanent marks an error that trying again does not mend: the run is FAILED
// at once. It is nil for a nil error.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

type permanent struct{ err error }

func (p *permanent) Error() string { return p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

// SkipCycle marks an error that the rest of this cycle does not mend: the run
// rests for the cycle interval and goes on with the next cycle, or is FAILED
// when this was the last. It is nil for a nil error.
func SkipCycle(err error) error {
	if err == nil {
		return nil
	}
	return &skipCycle{err}
}

type skipCycle struct{ err error }

func (s *skipCycle) Error() string { return s.err.Error() }
func (s *skipCycle) Unwrap() error { return s.err }

// Snooze is what a handler returns that wants to be called again after d, and that
// has not failed: it costs no attempt and leaves none on record. A d of less than
// MinSnooze is MinSnooze. A run may snooze Policy.MaxSnoozes times.
func Snooze(d time.Duration) error { return &snooze{min(max(d, MinSnooze), century)} }

// MinSnooze is the shortest Snooze: a handler that wants to be called again at once
// is called ten times a second.
const MinSnooze = 100 * time.Millisecond

type snooze struct{ d time.Duration }

func (s *snooze) Error() string { return fmt.Sprintf("snoozed for %v", s.d) }

// TimeoutError is the error of a handler that failed after its policy's
// Timeout was over.
type TimeoutError struct {
	Timeout time.Duration
	Err     error // what the handler returned
}

func (t *TimeoutError) Error() string {
	return fmt.Sprintf("the timeout of %v was over: %v", t.Timeout, t.Err)
}
func (t *TimeoutError) Unwrap() error { return t.Err }

// LastError returns the failure that a run has on record as an error of the
// same kind and message.
func LastError(run store.Run) error {
	if run.ErrorKind == "" {
		return &recorded{kind: store.KindAbandoned, message: "no attempt is left, and none that failed is on record"}
	}
	return &recorded{run.ErrorKind, run.Error, true}
}

// recorded is an error of an earlier attempt, or of nobody's handler.
type recorded struct {
	kind     store.Kind
	message  string
	onRecord bool // as an attempt
}

func (r *recorded) Error() string { return r.message }

// EventLost is the error of a run whose event cannot be had.
func EventLost(why string) error { return &recorded{kind: store.KindLost, message: why} }

// ErrNacked is the error of a message that was nacked by who knows whom.
var ErrNacked error = &recorded{kind: store.KindNack, message: "the message was nacked"}

// SafeError returns an error whose methods can be called: err, or when those of err
// panic – a typed nil, as a rule – a *PanicError that says so.
func SafeError(err error) (sound error) {
	defer func() {
		if value := recover(); value != nil {
			sound = &PanicError{
				Value: fmt.Sprintf("the handler returned an error of type %T whose methods panic: %v", err, value),
				Stack: string(debug.Stack()),
			}
		}
	}()
	if err != nil {
		_ = err.Error()
		_ = errors.Is(err, store.ErrLeaseLost)
		_ = errors.As(err, new(*snooze)) // as far as it is wrapped
	}
	return err
}

// Failure classes the error of a handler's run, wrapped or not. Of several
// marks the first of these counts: a panic, Undecodable, Permanent, SkipCycle.
// The error is Sound.
func Failure(handler string, err error) store.Failure {
	var (
		panicked   *PanicError
		recovered  wmiddleware.RecoveredPanicError // by the application's own middleware.Recoverer
		decoding   *undecodable
		hopeless   *permanent
		skipping   *skipCycle
		late       *TimeoutError
		earlier    *recorded
		stack      string
		kind, text = store.KindError, err.Error()
	)
	switch {
	case errors.As(err, &panicked):
		kind, stack = store.KindPanic, panicked.Stack
	case errors.As(err, &recovered): // its own text would repeat the stack
		kind, text, stack = store.KindPanic, fmt.Sprintf("panic: %v", recovered.V), recovered.Stacktrace
	case errors.As(err, &decoding):
		kind = store.KindUndecodable
	case errors.As(err, &hopeless):
		kind = store.KindPermanent
	case errors.As(err, &skipping):
		kind = store.KindSkipCycle
	case errors.As(err, &late):
		kind = store.KindTimeout
	case errors.As(err, &earlier):
		kind = earlier.kind
	}
	failure := store.NewFailure(handler, kind, text)
	failure.Stack = stack
	return *failure
}
