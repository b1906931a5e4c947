package reprise_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/components/fanin"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/components/requestreply"
	"github.com/ThreeDotsLabs/watermill/components/requeuer"
	"github.com/ThreeDotsLabs/watermill/message"
	wm "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

type (
	bookRoom     struct{ Room string }
	roomBooked   struct{ Room string }
	beerOrdered  struct{ Room string }
	quotePrice   struct{ Room string }
	priceOfARoom struct{ Cents int }
)

// An application that is made of Watermill's parts alone, with Reprise's publisher,
// subscribers and Record in the places of others, does what it did: CQRS buses and
// processors, an event group, the forwarder, the poison queue and the requeuer, a
// fan-in, request-reply, and five middlewares.
func TestAnApplicationOfWatermillsPartsRunsOnReprise(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		a := newStockApplication(t, url)
		const rooms = 20
		var want []string
		for i := range rooms {
			room := fmt.Sprint(i)
			require.NoError(t, a.commands.Send(t.Context(), bookRoom{Room: room}))
			want = append(want, "cleaned "+room)
			want = append(want, elsewhere(room)...)
		}
		a.publishInTx("in-tx")
		want = append(want, "cleaned in-tx")
		want = append(want, elsewhere("in-tx")...)
		want = append(want, elsewhere(withoutTowels)...) // what comes back comes to all handlers of its topic
		slices.Sort(want)
		require.EventuallyWithT(t, func(c *assert.CollectT) { assert.Equal(c, want, a.done()) }, time.Minute, 10*time.Millisecond)

		reply, err := requestreply.SendWithReply(t.Context(), a.commands, a.replies, quotePrice{Room: "1"})
		require.NoError(t, err)
		require.Equal(t, priceOfARoom{Cents: 100}, reply.HandlerResult)

		require.Eventually(t, func() bool {
			left, err := a.st.Count(t.Context(), store.Filter{Status: store.Pending})
			require.NoError(t, err)
			return left.N == 0
		}, time.Minute, 10*time.Millisecond)
		failed, err := a.st.Runs(t.Context(), store.Filter{Status: store.Failed})
		require.NoError(t, err)
		require.Len(t, failed, 1, "the record shows what went to the poison queue")
		require.Equal(t, "cleaner", failed[0].Handler)
		require.Contains(t, failed[0].Error, "no towels")

		// What came back is an event of its own, which tells what it repeats.
		cleaned, err := a.st.Runs(t.Context(), store.Filter{Handler: "cleaner", Status: store.Success})
		require.NoError(t, err)
		require.Len(t, cleaned, rooms+1)
		var back []store.Event
		for _, run := range cleaned {
			e, err := a.st.Event(t.Context(), run.Topic, run.EventID)
			require.NoError(t, err)
			if e.Metadata[store.RepeatsMetadata] != "" {
				back = append(back, e)
			}
		}
		require.Len(t, back, 1)
		require.Equal(t, failed[0].EventID, back[0].Metadata[store.RepeatsMetadata])
		require.Equal(t, "no towels", back[0].Metadata[wm.ReasonForPoisonedKey])
	})
}

// The cleaner fails on this room's event until it comes back from the poison queue.
const withoutTowels = "7"

// elsewhere is what all handlers but the cleaner do about a booked room.
func elsewhere(room string) []string {
	return []string{"booked " + room, "bill " + room, "beer " + room, "any " + room, "any " + room}
}

type stockApplication struct {
	t        *testing.T
	st       *store.Store
	ps       *pubsub.PubSub
	commands *cqrs.CommandBus
	replies  *requestreply.PubSubBackend[priceOfARoom]

	mu  sync.Mutex
	did map[string]int
}

func (a *stockApplication) note(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.did[what]++
}

func (a *stockApplication) done() (all []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(a.did)) {
		for range a.did[what] {
			all = append(all, what)
		}
	}
	return all
}

// publishInTx publishes by the forwarder's publisher in a transaction.
func (a *stockApplication) publishInTx(room string) {
	a.t.Helper()
	require.NoError(a.t, a.ps.InTx(a.t.Context(), func(tx *pubsub.Transaction) error {
		events, err := cqrs.NewEventBusWithConfig(forwarder.NewPublisher(a.ps.PublisherTx(tx), forwarder.PublisherConfig{ForwarderTopic: "outbox"}), eventBusConfig)
		if err != nil {
			return err
		}
		return events.Publish(a.t.Context(), roomBooked{Room: room})
	}))
}

var (
	names          = cqrs.JSONMarshaler{GenerateName: cqrs.StructName}
	eventBusConfig = cqrs.EventBusConfig{
		GeneratePublishTopic: func(p cqrs.GenerateEventPublishTopicParams) (string, error) { return "events." + p.EventName, nil },
		Marshaler:            names,
	}
)

func newStockApplication(t *testing.T, url string) *stockApplication {
	log := watermill.NewSlogLogger(logger(t))
	b, err := bus.Open(t.Context(), url, bus.Config{Logger: logger(t)}) // for its pool and tables only
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	ps, err := pubsub.New(b.Store(), pubsub.Config{Logger: logger(t)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ps.Close()) })
	a := &stockApplication{t: t, st: b.Store(), ps: ps, did: map[string]int{}}
	policy := handlers.Policy{Attempts: 3, Cycles: 1, Backoff: handlers.Backoff{Initial: time.Millisecond}}

	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, log)
	require.NoError(t, err)
	router.AddMiddleware(
		middleware.Record(a.st),
		wm.CorrelationID,
		wm.Timeout(time.Minute),
		wm.NewThrottle(10_000, time.Second).Middleware,
		wm.Recoverer,
		wm.Retry{MaxRetries: 1, InitialInterval: time.Millisecond}.Middleware,
	)

	events, err := cqrs.NewEventBusWithConfig(ps.Publisher(), eventBusConfig)
	require.NoError(t, err)
	a.commands, err = cqrs.NewCommandBusWithConfig(ps.Publisher(), cqrs.CommandBusConfig{
		GeneratePublishTopic: func(p cqrs.CommandBusGeneratePublishTopicParams) (string, error) {
			return "commands." + p.CommandName, nil
		},
		Marshaler: names,
	})
	require.NoError(t, err)
	commands, err := cqrs.NewCommandProcessorWithConfig(router, cqrs.CommandProcessorConfig{
		GenerateSubscribeTopic: func(p cqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) {
			return "commands." + p.CommandName, nil
		},
		SubscriberConstructor: func(p cqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return ps.Subscriber(p.HandlerName, policy), nil
		},
		Marshaler: names,
		Logger:    log,
	})
	require.NoError(t, err)

	// Replies live as long as whoever waits for them: they need no record.
	channel := gochannel.NewGoChannel(gochannel.Config{}, log)
	t.Cleanup(func() { require.NoError(t, channel.Close()) })
	timeout := time.Minute
	a.replies, err = requestreply.NewPubSubBackend(requestreply.PubSubBackendConfig{
		Publisher:             channel,
		SubscriberConstructor: func(requestreply.PubSubBackendSubscribeParams) (message.Subscriber, error) { return channel, nil },
		GeneratePublishTopic:  func(requestreply.PubSubBackendPublishParams) (string, error) { return "replies", nil },
		GenerateSubscribeTopic: func(requestreply.PubSubBackendSubscribeParams) (string, error) {
			return "replies", nil
		},
		ListenForReplyTimeout: &timeout,
		Logger:                log,
	}, requestreply.BackendPubsubJSONMarshaler[priceOfARoom]{})
	require.NoError(t, err)
	require.NoError(t, commands.AddHandlers(
		cqrs.NewCommandHandler("book", func(ctx context.Context, c *bookRoom) error {
			return events.Publish(ctx, roomBooked(*c))
		}),
		requestreply.NewCommandHandlerWithResult("quote", a.replies, func(ctx context.Context, _ *quotePrice) (priceOfARoom, error) {
			return priceOfARoom{Cents: 100}, nil
		}),
	))

	processor, err := cqrs.NewEventProcessorWithConfig(router, cqrs.EventProcessorConfig{
		GenerateSubscribeTopic: func(p cqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) {
			return "events." + p.EventName, nil
		},
		SubscriberConstructor: func(p cqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return ps.Subscriber(p.HandlerName, policy), nil
		},
		Marshaler: names,
		Logger:    log,
	})
	require.NoError(t, err)
	var billing atomic.Bool
	require.NoError(t, processor.AddHandlers(
		cqrs.NewEventHandler("confirm", func(_ context.Context, e *roomBooked) error {
			a.note("booked " + e.Room)
			return nil
		}),
		cqrs.NewEventHandler("bill", func(_ context.Context, e *roomBooked) error {
			if !billing.Swap(true) {
				panic("the printer is on fire")
			}
			a.note("bill " + e.Room)
			return nil
		}),
		cqrs.NewEventHandler("order-beer", func(ctx context.Context, e *roomBooked) error {
			return events.Publish(ctx, beerOrdered(*e))
		}),
	))

	// An event group hears several types on the topic of a fan-in.
	group, err := cqrs.NewEventGroupProcessorWithConfig(router, cqrs.EventGroupProcessorConfig{
		GenerateSubscribeTopic: func(cqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) { return "everything", nil },
		SubscriberConstructor: func(p cqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return ps.Subscriber(p.EventGroupName, policy), nil
		},
		Marshaler: names,
		Logger:    log,
	})
	require.NoError(t, err)
	require.NoError(t, group.AddHandlersGroup("report",
		cqrs.NewGroupEventHandler(func(_ context.Context, e *roomBooked) error { a.note("any " + e.Room); return nil }),
		cqrs.NewGroupEventHandler(func(_ context.Context, e *beerOrdered) error {
			a.note("beer " + e.Room)
			a.note("any " + e.Room)
			return nil
		}),
	))
	gather, err := fanin.NewFanIn(ps.Subscriber("gather", policy), ps.Publisher(), fanin.Config{
		SourceTopics: []string{"events.roomBooked", "events.beerOrdered"}, TargetTopic: "everything",
	}, log)
	require.NoError(t, err)
	a.runs(gather.Run, gather.Running())

	// What the cleaner fails on goes to the poison queue, and comes back. In
	// Watermill's router the middlewares of one handler are inside those of all, so
	// also inside Record.
	poison, err := wm.PoisonQueue(ps.Publisher(), "poison")
	require.NoError(t, err)
	cleaning := router.AddConsumerHandler("cleaner", "events.roomBooked", ps.Subscriber("cleaner", handlers.Policy{Attempts: 1, Cycles: 1}), func(msg *message.Message) error {
		var e roomBooked
		if err := names.Unmarshal(msg, &e); err != nil {
			return err
		}
		if e.Room == withoutTowels && msg.Metadata.Get(wm.ReasonForPoisonedKey) == "" {
			return errors.New("no towels")
		}
		a.note("cleaned " + e.Room)
		return nil
	})
	cleaning.AddMiddleware(poison)
	_, err = requeuer.NewRequeuer(requeuer.Config{
		Subscriber: ps.Subscriber("requeuer", policy), SubscribeTopic: "poison", Publisher: ps.Publisher(),
		GeneratePublishTopic: func(p requeuer.GeneratePublishTopicParams) (string, error) {
			return p.Message.Metadata.Get(wm.PoisonedTopicKey), nil
		},
		Delay: time.Millisecond, Router: router,
	}, log)
	require.NoError(t, err)

	_, err = forwarder.NewForwarder(ps.Subscriber("forwarder", policy), ps.Publisher(), log, forwarder.Config{ForwarderTopic: "outbox", Router: router})
	require.NoError(t, err)
	a.runs(router.Run, router.Running())
	return a
}

// runs runs what Watermill runs until the test ends.
func (a *stockApplication) runs(f func(context.Context) error, running chan struct{}) {
	a.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	a.t.Cleanup(func() {
		cancel()
		require.NoError(a.t, <-ended)
	})
	select {
	case <-running:
	case <-time.After(time.Minute):
		a.t.Fatal("it does not run")
	}
}
