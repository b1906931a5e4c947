package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/registry"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// routed returns the handler's name in Watermill's router, where names are unique.
func routed(h registry.Handler) string {
	if h.Is == registry.OfGroup {
		return h.Name + " " + h.Topic
	}
	return h.Name
}

// Handle registers handlers: those of handlers.New or any cqrs.EventHandler, each on the
// topic that its event's name gives. On an error it registers none. Call Handle before
// Run. A handler of events that could never be published, named or decoded is an error.
//
// Handle returns when the subscriptions are committed, or with an error after 10 s. From
// its first registration on, a handler gets every event whose publish is committed later,
// whichever process publishes it and whenever that transaction began. With a Transport it
// gets all events of the topic that the broker still has. A process that only publishes
// should register its handlers too, and leave Run to others: then nothing that it
// publishes comes before the subscription. Do not call Handle while an open transaction
// holds the only connection of the pool.
func (b *Bus) Handle(hs ...cqrs.EventHandler) error {
	fresh, err := registry.Events(hs)
	return b.register(fresh, err)
}

// HandleCommands registers handlers of commands, of cqrs.NewCommandHandler or of
// handlers.New, as Handle registers handlers of events. A command has exactly one
// handler: HandleCommands returns an error if another handler of the command is
// registered in this process or subscribed in the database. To rename a handler, first
// remove the subscription of the old name with "reprise handlers remove".
//
// If two processes register different handlers of one new command at the same moment,
// both may succeed. The next start of either returns the error.
func (b *Bus) HandleCommands(hs ...cqrs.CommandHandler) error {
	fresh, err := registry.Commands(hs)
	return b.register(fresh, err)
}

// HandleGroup registers handlers of several types of events under one name: those of
// cqrs.NewGroupEventHandler or any other. Each is registered as Handle does it. The name
// is the group's identity in the database. The policy applies to each member; a member's
// own name and policy are ignored.
//
// Each type is a topic with a subscription, runs and retries of its own. An event that
// fails delays no other, and events of different types have no order. The types share the
// slots of Policy.Concurrency: with 1, a process handles one event of the group at a
// time. A group has one handler for a type.
func (b *Bus) HandleGroup(name string, policy handlers.Policy, members ...cqrs.GroupEventHandler) error {
	fresh, err := registry.Group(name, policy, members)
	return b.register(fresh, err)
}

// register subscribes all of the handlers or none. failed is the error of making them, if
// any.
func (b *Bus) register(fresh []registry.Handler, failed error) error {
	if failed != nil {
		return fmt.Errorf("bus: %w", failed)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ran {
		return errors.New("bus: Handle after Run: register all handlers first")
	}
	all, err := registry.Add(b.handlers, fresh, b.config.Marshaler, func(h registry.Handler) error { return b.config.Transport.ValidTopic(h.Topic) })
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	if err := b.subscribe(fresh); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	b.handlers = all
	return nil
}

// subscribing is how long Handle may wait for the database.
const subscribing = 10 * time.Second

// subscribe registers handlers and commits their subscriptions. On an error it removes
// the handlers from this process again.
func (b *Bus) subscribe(fresh []registry.Handler) (err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), subscribing, fmt.Errorf("the database did not take the subscriptions within %v", subscribing))
	defer cancel()
	if err := b.onlyHandlers(ctx, fresh); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			for _, r := range fresh {
				b.pubsub.Unregister(r.Topic, r.Name)
			}
		}
	}()
	for _, r := range fresh {
		if err := b.pubsub.Register(r.Topic, r.Name, r.Policy); err != nil {
			return err
		}
	}
	return b.pubsub.SubscribeRegistered(ctx)
}

// onlyHandlers reports commands that have another handler in the database.
func (b *Bus) onlyHandlers(ctx context.Context, fresh []registry.Handler) error {
	if !slices.ContainsFunc(fresh, func(h registry.Handler) bool { return h.Is == registry.OfCommands }) {
		return nil
	}
	var subscribed map[store.Subscription]bool
	health := outage.Outage{What: "looking for other handlers of commands", Log: b.config.Logger}
	if err := health.Until(ctx, time.Second, sqldb.Transient, func() (err error) {
		subscribed, err = b.store.SubscriptionKeys(ctx)
		return err
	}); err != nil {
		return err
	}
	for _, r := range fresh {
		for sub := range subscribed {
			if r.Is == registry.OfCommands && sub.Topic == r.Topic && sub.Handler != r.Name {
				return fmt.Errorf("%w; the database has the subscription of %q, to remove it if that handler is no more: reprise handlers remove", registry.SeveralFor(r.Topic, sub.Handler, r.Name), sub.Handler)
			}
		}
	}
	return nil
}
