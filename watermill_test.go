package reprise_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/delay"
	"github.com/ThreeDotsLabs/watermill/message"
	wm "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/sony/gobreaker"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/store"
)

// docs/middlewares.md says of each middleware of Watermill's what it does inside
// Record. Each line has its proof here, on every database.
func TestWatermillsMiddlewares(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/middlewares.md")
	require.NoError(t, err)
	var said []string
	for _, line := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		said = append(said, line[1])
	}
	slices.Sort(said)
	proven := make([]string, 0, len(middlewares))
	for name := range middlewares {
		proven = append(proven, name)
	}
	slices.Sort(proven)
	require.Equal(t, proven, said, "docs/middlewares.md has a line for each proof")
	for name, proof := range middlewares {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testdb.Each(t, func(t *testing.T, url string) { proof(t, &stock{T: t, url: url}) })
		})
	}
}

var middlewares = map[string]func(t *testing.T, s *stock){
	"CircuitBreaker": func(t *testing.T, s *stock) {
		s.use(wm.NewCircuitBreaker(gobreaker.Settings{ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 1 }}).Middleware)
		r := s.handle(2, func(int, *message.Message) error { return errors.New("down") })
		require.Equal(t, store.Failed, r.Status)
		require.EqualValues(t, 1, s.calls.Load(), "the open breaker costs an attempt, and the handler is not called")
		require.Equal(t, []string{"down", "circuit breaker is open"}, s.attempts(r))
	},
	"CorrelationID": func(t *testing.T, s *stock) {
		s.use(wm.CorrelationID)
		r := s.handle(1, func(_ int, msg *message.Message) error {
			return s.Publish(msg.Context(), mailSent{ID: "m1"})
		})
		require.Equal(t, store.Success, r.Status)
		sent, _, err := s.Store().Events(t.Context(), store.EventFilter{Topic: "mail.sent", Metadata: true})
		require.NoError(t, err)
		require.Len(t, sent, 1)
		require.Equal(t, r.EventID, sent[0].Metadata[wm.CorrelationIDMetadataKey], "Reprise has set it, with or without the middleware")
	},
	"Deduplicator": func(t *testing.T, s *stock) {
		s.use((&wm.Deduplicator{}).Middleware)
		r := s.handle(2, func(int, *message.Message) error { return errors.New("down") })
		require.Equal(t, store.Success, r.Status, "the second attempt is taken for a duplicate")
		require.EqualValues(t, 1, s.calls.Load())
	},
	"DelayOnError": func(t *testing.T, s *stock) {
		s.use((&wm.DelayOnError{InitialInterval: time.Hour, MaxInterval: time.Hour, Multiplier: 1}).Middleware)
		r := s.handle(2, func(call int, msg *message.Message) error {
			require.Empty(t, msg.Metadata.Get(delay.DelayedForKey), "what it notes in the message is gone at the next attempt")
			if call == 1 {
				return errors.New("down")
			}
			return nil
		})
		require.Equal(t, store.Success, r.Status)
		require.EqualValues(t, 2, s.calls.Load(), "when the policy says, not in an hour")
	},
	"Duplicator": func(t *testing.T, s *stock) {
		s.use(wm.Duplicator)
		r := s.handle(1, func(int, *message.Message) error { return nil })
		require.Equal(t, store.Success, r.Status)
		require.EqualValues(t, 2, s.calls.Load())
		require.Equal(t, 1, r.Attempt)
	},
	"IgnoreErrors": func(t *testing.T, s *stock) {
		expected := errors.New("no such account")
		s.use(wm.NewIgnoreErrors([]error{expected}).Middleware)
		r := s.handle(1, func(int, *message.Message) error { return expected })
		require.Equal(t, store.Success, r.Status)
		require.Empty(t, s.attempts(r), "nothing of it is on record")
	},
	"InstantAck": func(t *testing.T, s *stock) {
		s.use(wm.InstantAck)
		r := s.handle(2, func(_ int, msg *message.Message) error {
			run, err := s.Store().Run(t.Context(), s.runID(msg))
			require.NoError(t, err)
			require.Equal(t, store.Pending, run.Status, "the ack is no end")
			return errors.New("down")
		})
		require.Equal(t, store.Failed, r.Status)
		require.EqualValues(t, 2, s.calls.Load(), "it is tried again all the same")
	},
	"PoisonQueue": func(t *testing.T, s *stock) {
		poisoned := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
		t.Cleanup(func() { require.NoError(t, poisoned.Close()) })
		queue, err := wm.PoisonQueue(poisoned, "poison")
		require.NoError(t, err)
		s.use(queue)
		r := s.handle(2, func(int, *message.Message) error { return errors.New("down") })
		require.Equal(t, store.Failed, r.Status)
		require.EqualValues(t, 1, s.calls.Load(), "there is no second attempt: the message is elsewhere")
		require.Equal(t, store.KindPermanent, r.ErrorKind)
		require.Contains(t, r.Error, "down")
		messages, err := poisoned.Subscribe(t.Context(), "poison")
		require.NoError(t, err)
		require.Equal(t, r.EventID, (<-messages).UUID)
	},
	"RandomFail": func(t *testing.T, s *stock) {
		s.use(wm.RandomFail(1))
		r := s.handle(1, func(int, *message.Message) error { return nil })
		require.Equal(t, store.Failed, r.Status)
		require.Equal(t, store.KindError, r.ErrorKind)
	},
	"RandomPanic": func(t *testing.T, s *stock) {
		s.use(wm.RandomPanic(1))
		r := s.handle(1, func(int, *message.Message) error { return nil })
		require.Equal(t, store.Failed, r.Status)
		require.Equal(t, store.KindPanic, r.ErrorKind)
	},
	"Recoverer": func(t *testing.T, s *stock) {
		s.use(wm.Recoverer)
		r := s.handle(1, func(int, *message.Message) error { panic("oh") })
		require.Equal(t, store.Failed, r.Status)
		require.Equal(t, store.KindPanic, r.ErrorKind, "as without it")
	},
	"Retry": func(t *testing.T, s *stock) {
		s.use(wm.Retry{MaxRetries: 2, InitialInterval: time.Millisecond}.Middleware)
		r := s.handle(1, func(call int, msg *message.Message) error {
			run, err := s.Store().Run(t.Context(), s.runID(msg))
			require.NoError(t, err)
			require.NotEmpty(t, run.Instance, "it holds its slot while it waits")
			if call == 1 {
				return errors.New("down")
			}
			return nil
		})
		require.Equal(t, store.Success, r.Status)
		require.EqualValues(t, 2, s.calls.Load())
		require.Equal(t, 1, r.Attempt)
		require.Empty(t, s.attempts(r), "the first failure is not on record")
	},
	"Throttle": func(t *testing.T, s *stock) {
		s.use(wm.NewThrottle(1, time.Millisecond).Middleware)
		r := s.handle(1, func(int, *message.Message) error { return nil })
		require.Equal(t, store.Success, r.Status)
	},
	"Timeout": func(t *testing.T, s *stock) {
		var after error
		s.use(func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				produced, err := next(msg)
				after = msg.Context().Err()
				return produced, err
			}
		}, wm.Timeout(time.Minute))
		r := s.handle(2, func(call int, msg *message.Message) error {
			require.NoError(t, msg.Context().Err(), "each attempt has a context of its own")
			if call == 1 {
				return errors.New("down")
			}
			return nil
		})
		require.Equal(t, store.Success, r.Status)
		require.ErrorIs(t, after, context.Canceled, "middleware around it finds a context that has ended")
	},
}

type mailSent struct{ ID string }

func (mailSent) EventName() string { return "mail.sent" }

// stock is a bus whose handler is wrapped by middleware of Watermill's.
type stock struct {
	*testing.T
	*bus.Bus
	url        string
	middleware []message.HandlerMiddleware
	calls      atomic.Int64
}

func (s *stock) use(m ...message.HandlerMiddleware) { s.middleware = append(s.middleware, m...) }

// handle publishes an event, and returns the run of its handler, which has so many
// attempts, when it has ended.
func (s *stock) handle(attempts int, f func(call int, msg *message.Message) error) store.Run {
	s.Helper()
	innermost := func(message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			return nil, f(int(s.calls.Add(1)), msg)
		}
	}
	var err error
	s.Bus, err = bus.Open(s.Context(), s.url, bus.Config{Logger: logger(s.T), Middleware: append(s.middleware, innermost)})
	require.NoError(s, err)
	s.Cleanup(func() { require.NoError(s, s.Close()) })
	require.NoError(s, s.Handle(handlers.New("handler", func(context.Context, userSignedUp) error { return nil },
		handlers.Policy{Attempts: attempts, Cycles: 1, Backoff: handlers.Backoff{Initial: time.Millisecond}})))
	run(s.T, s.Bus)
	require.NoError(s, s.Publish(s.Context(), userSignedUp{ID: "u1"}))
	var ended store.Run
	require.Eventually(s, func() bool {
		ended = testkit.WaitForRun(s.T, s.Bus.Store(), store.Filter{})
		return ended.Status != store.Pending
	}, time.Minute, 5*time.Millisecond)
	return ended
}

func (s *stock) runID(msg *message.Message) int64 {
	d, ok := handlers.DeliveryFrom(msg.Context())
	require.True(s, ok)
	return d.Run().ID
}

// attempts returns the messages of the attempts that failed.
func (s *stock) attempts(r store.Run) (messages []string) {
	s.Helper()
	attempts, err := s.Store().Attempts(s.Context(), r.ID)
	require.NoError(s, err)
	for _, a := range attempts {
		messages = append(messages, a.Message)
	}
	return messages
}
