package pubsub_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// A router without Record behind a subscriber that counts on it: it used to handle as
// many messages as it has slots, and then none.
func TestARecordedSubscriberWithoutRecordSaysSoAndGoesOn(t *testing.T) {
	for name, subscriber := range map[string]func(t *testing.T, ps *pubsub.PubSub, p handlers.Policy) message.Subscriber{
		"RecordedSubscriber": func(_ *testing.T, ps *pubsub.PubSub, p handlers.Policy) message.Subscriber {
			return ps.RecordedSubscriber("handler", p)
		},
		"Inbox": func(t *testing.T, ps *pubsub.PubSub, p handlers.Policy) message.Subscriber {
			in, err := ps.Inbox(transport(t), "handler", p, pubsub.InboxConfig{Recorded: true})
			require.NoError(t, err)
			return in
		},
	} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				const n = 10
				st := testkit.OpenStore(t, url)
				var log lines
				ps := configured(t, st, pubsub.Config{Logger: log.logger()})
				router := routerOf(t)
				router.AddConsumerHandler("handler", "topic", subscriber(t, ps, handlers.Policy{Concurrency: 2, Attempts: 2, Cycles: 1, Backoff: soon}), func(msg *message.Message) error {
					if string(msg.Payload) == "fails" {
						return errWrong
					}
					return nil
				})
				start(t, router)
				for range n {
					require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
				}
				require.NoError(t, ps.Publisher().Publish("topic", newMessage("fails")))
				testkit.WaitForStatus(t, st, "handler", store.Success, n)
				testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
				said := 0
				for _, line := range log.of(t, "handler") {
					if line["level"] == "ERROR" && line["run"] == nil {
						require.Contains(t, line["msg"], "router.AddMiddleware(middleware.Record(st))")
						said++
					}
				}
				require.Equal(t, 1, said)
			})
		})
	}
}

// Behind Record, a middleware may ack as early as it likes.
func TestWithRecordNothingIsSaidOfAnEarlyAck(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		var log lines
		ps := configured(t, st, pubsub.Config{Logger: log.logger()})
		router := routerOf(t)
		router.AddMiddleware(middleware.Record(st), wmiddleware.InstantAck)
		var calls atomic.Int32
		router.AddConsumerHandler("handler", "topic", ps.RecordedSubscriber("handler", handlers.Policy{Attempts: 1, Cycles: 1}), func(*message.Message) error {
			calls.Add(1)
			return errors.New("after the ack")
		})
		start(t, router)
		for range 3 {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		}
		testkit.WaitForStatus(t, st, "handler", store.Failed, 3)
		require.EqualValues(t, 3, calls.Load())
		for _, line := range log.of(t, "msg") {
			require.NotContains(t, line["msg"], "middleware.Record")
		}
	})
}

func routerOf(t *testing.T) *message.Router {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	return router
}

func start(t *testing.T, router *message.Router) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- router.Run(t.Context()) }()
	<-router.Running()
	t.Cleanup(func() {
		require.NoError(t, router.Close())
		require.NoError(t, testkit.Receive(t, ended))
	})
}
