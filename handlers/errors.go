package handlers

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/reprise-bus/reprise/store"
)

// This file has the errors that a handler returns to say more than "failed" (Permanent,
// SkipCycle, Snooze, Undecodable), and Failure, which converts any error to the kind and
// message on record. Policy.Decide, in decide.go, decides by the kind what happens to the
// run.

// Undecodable marks an error of the payload: the handler cannot read the event, now or
// later. The run is FAILED at once. Func marks payloads that the marshaler refuses; a
// handler that decodes payloads itself may use the mark, too. It returns nil for a nil
// error.
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
	Value any    // the argument of panic
	Stack string // stack of the goroutine that panicked
}

func (p *PanicError) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Unwrap returns the argument of panic if it was an error, and nil otherwise.
func (p *PanicError) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// Permanent marks an error that another attempt would not mend: the run is FAILED at
// once. It returns nil for a nil error.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

type permanent struct{ err error }

func (p *permanent) Error() string { return p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

// SkipCycle marks an error that the remaining attempts of this cycle would not mend. The
// run waits for the cycle interval and continues with the next cycle. In the last cycle
// the run is FAILED. It returns nil for a nil error.
func SkipCycle(err error) error {
	if err == nil {
		return nil
	}
	return &skipCycle{err}
}

type skipCycle struct{ err error }

func (s *skipCycle) Error() string { return s.err.Error() }
func (s *skipCycle) Unwrap() error { return s.err }

// Snooze returns the error of a handler that has not failed and wants to be called again
// after d. A snooze costs no try and leaves no attempt on record. d is raised to
// MinSnooze if it is shorter. A run may snooze Policy.MaxSnoozes times.
func Snooze(d time.Duration) error { return &snooze{min(max(d, MinSnooze), century)} }

// MinSnooze is the shortest wait of a Snooze: a handler that always snoozes for less is
// called ten times a second.
const MinSnooze = 100 * time.Millisecond

type snooze struct{ d time.Duration }

func (s *snooze) Error() string { return fmt.Sprintf("snoozed for %v", s.d) }

// TimeoutError is the error of a handler that failed after its policy's Timeout had
// passed.
type TimeoutError struct {
	Timeout time.Duration
	Err     error // the handler's error
}

func (t *TimeoutError) Error() string {
	return fmt.Sprintf("the timeout of %v was over: %v", t.Timeout, t.Err)
}
func (t *TimeoutError) Unwrap() error { return t.Err }

// LastError returns the last failure on record of a run, as an error of the same kind and
// message.
func LastError(run store.Run) error {
	if run.ErrorKind == "" {
		return &recorded{kind: store.KindAbandoned, message: "no attempt is left, and none that failed is on record"}
	}
	return &recorded{run.ErrorKind, run.Error, true}
}

// recorded is an error of an earlier attempt, or an error that no handler returned.
type recorded struct {
	kind     store.Kind
	message  string
	onRecord bool // the failure is on record as an attempt
}

func (r *recorded) Error() string { return r.message }

// EventLost returns the error of a run whose event cannot be read.
func EventLost(why string) error { return &recorded{kind: store.KindLost, message: why} }

// ErrNacked is the error of an attempt whose message was nacked without an error.
var ErrNacked error = &recorded{kind: store.KindNack, message: "the message was nacked"}

// SafeError returns err if its methods can be called. If they panic, usually because of a
// typed nil, it returns a *PanicError that says so.
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
		_ = errors.As(err, new(*snooze)) // walks all wrapped errors
	}
	return err
}

// Failure classifies the error of a handler's run, wrapped or not. If err bears several
// marks, the first of these counts: a panic, Undecodable, Permanent, SkipCycle. err must
// be one that SafeError has returned, and not nil.
func Failure(handler string, err error) store.Failure {
	var (
		panicked   *PanicError
		recovered  wmiddleware.RecoveredPanicError // of the application's own middleware.Recoverer
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
	case errors.As(err, &recovered): // the text of recovered would repeat the stack
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
