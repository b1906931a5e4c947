package middleware

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
)

// Timeout ends the message's context after d. An error that the handler returns after
// that is wrapped in a *handlers.TimeoutError. A nil error is a success all the same, but
// a transaction in the context is rolled back by then. Nothing stops a handler that
// ignores its context.
//
// Watermill's own Timeout leaves the message with a cancelled context and does not change
// the error.
func Timeout(d time.Duration) message.HandlerMiddleware {
	over := fmt.Errorf("the handler's timeout of %v is over", d)
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			whole := msg.Context()
			ctx, cancel := context.WithTimeoutCause(whole, d, over)
			defer func() {
				cancel()
				msg.SetContext(whole)
			}()
			msg.SetContext(ctx)
			produced, err := next(msg)
			if err != nil && ctx.Err() != nil && whole.Err() == nil {
				err = &handlers.TimeoutError{Timeout: d, Err: err}
			}
			return produced, err
		}
	}
}
