package handlers

import (
	"errors"
	"fmt"

	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/reprise-bus/reprise/store"
)

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

// Failure classes the error of a handler, wrapped or not.
func Failure(err error) store.Failure {
	var (
		panicked  *PanicError
		recovered wmiddleware.RecoveredPanicError // by the application's own middleware.Recoverer
		decoding  *undecodable
	)
	switch {
	case errors.As(err, &panicked):
		return store.Failure{Kind: store.KindPanic, Message: err.Error(), Stack: panicked.Stack}
	case errors.As(err, &recovered): // its own text would repeat the stack
		return store.Failure{Kind: store.KindPanic, Message: fmt.Sprintf("panic: %v", recovered.V), Stack: recovered.Stacktrace}
	case errors.As(err, &decoding):
		return store.Failure{Kind: store.KindUndecodable, Message: err.Error()}
	default:
		return store.Failure{Kind: store.KindError, Message: err.Error()}
	}
}
