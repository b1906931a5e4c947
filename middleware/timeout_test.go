package middleware_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

var onceOnly = handlers.Policy{Attempts: 1, Cycles: 1}

func TestATimeoutEndsTheContextAndSaysWhy(t *testing.T) {
	t.Parallel()
	msg := message.NewMessage("1", nil)
	whole := msg.Context()
	_, err := middleware.Timeout(time.Millisecond)(func(msg *message.Message) ([]*message.Message, error) {
		<-msg.Context().Done()
		require.ErrorContains(t, context.Cause(msg.Context()), "the handler's timeout of 1ms is over")
		return nil, msg.Context().Err()
	})(msg)
	var late *handlers.TimeoutError
	require.ErrorAs(t, err, &late)
	require.Equal(t, time.Millisecond, late.Timeout)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, whole, msg.Context(), "the message's context is whole again")
}

// A message whose own context ends has not timed out.
func TestACancelledMessageIsNoTimeout(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	msg := message.NewMessage("1", nil)
	msg.SetContext(ctx)
	_, err := middleware.Timeout(time.Hour)(func(msg *message.Message) ([]*message.Message, error) {
		cancel()
		<-msg.Context().Done()
		return nil, msg.Context().Err()
	})(msg)
	require.True(t, err == context.Canceled) //nolint:errorlint // the very error
}

func TestATimeoutPassesOnWhatTheHandlerProduces(t *testing.T) {
	t.Parallel()
	produced, err := middleware.Timeout(time.Hour)(message.PassthroughHandler)(message.NewMessage("1", nil))
	require.NoError(t, err)
	require.Len(t, produced, 1)
}

// What comes after the timeout is on record as what it is.
func TestTheRecordSaysWhatWasATimeout(t *testing.T) {
	own := func(context.Context) error { return errors.Join(errors.New("the bank"), context.DeadlineExceeded) }
	after := func(then func() error) func(context.Context) error {
		return func(ctx context.Context) error {
			<-ctx.Done()
			return then()
		}
	}
	wentWrong := errors.New("it went wrong")
	const never, soon = time.Hour, 5 * time.Millisecond
	for name, c := range map[string]struct {
		timeout time.Duration
		handle  func(context.Context) error
		status  store.Status
		kind    store.Kind
	}{
		"an error after it":                 {soon, after(func() error { return wentWrong }), store.Failed, store.KindTimeout},
		"nil after it":                      {soon, after(func() error { return nil }), store.Success, ""},
		"an error before it":                {never, func(context.Context) error { return wentWrong }, store.Failed, store.KindError},
		"a deadline of the handler's own":   {never, own, store.Failed, store.KindError},
		"a panic after it":                  {soon, after(func() error { panic("no") }), store.Failed, store.KindPanic},
		"a permanent error after it":        {soon, after(func() error { return handlers.Permanent(wentWrong) }), store.Failed, store.KindPermanent},
		"the context's own error after it":  {soon, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, store.Failed, store.KindTimeout},
		"the context's own cause after it ": {soon, func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }, store.Failed, store.KindTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				outside := make(chan error, 1)
				look := func(next message.HandlerFunc) message.HandlerFunc {
					return func(msg *message.Message) ([]*message.Message, error) {
						defer func() { outside <- msg.Context().Err() }()
						return next(msg)
					}
				}
				ps := serve(t, st, onceOnly, func(msg *message.Message) error { return c.handle(msg.Context()) }, look, middleware.Timeout(c.timeout))
				publish(t, transport{publisher: ps.Publisher()}, "1", "{}")
				require.NoError(t, testkit.Receive(t, outside), "middleware around it sees a live context")
				run := testkit.WaitForRun(t, st, store.Filter{Status: c.status})
				require.Equal(t, c.kind, run.ErrorKind)
				if c.kind == store.KindTimeout {
					require.Contains(t, run.Error, "the timeout of 5ms was over: ")
				}
			})
		})
	}
}

// ---

// serve runs the handler "handler" of "topic" on Reprise's own transport, in
// Record and the other middleware.
func serve(t *testing.T, st *store.Store, policy handlers.Policy, handle message.NoPublishHandlerFunc, inside ...message.HandlerMiddleware) *pubsub.PubSub {
	t.Helper()
	return serveWith(t, st, pubsub.Config{Logger: quiet()}, policy, handle, inside...)
}

func serveWith(t *testing.T, st *store.Store, config pubsub.Config, policy handlers.Policy, handle message.NoPublishHandlerFunc, inside ...message.HandlerMiddleware) *pubsub.PubSub {
	t.Helper()
	config.PollInterval = 20 * time.Millisecond
	ps, err := pubsub.New(st, config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ps.Close()) })
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddMiddleware(middleware.Record(st))
	router.AddMiddleware(inside...)
	router.AddConsumerHandler("handler", "topic", ps.RecordedSubscriber("handler", policy), handle)
	runRouter(t, router)
	return ps
}
