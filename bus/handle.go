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
	"github.com/reprise-bus/reprise/store"
)

// registered is a handler of one topic. Those of a group share their name.
type registered struct {
	handler cqrs.EventHandler
	name    string
	topic   string
	policy  handlers.Policy
	is      kind
}

type kind int

const (
	ofEvents kind = iota
	ofCommands
	ofGroup
)

// routed is the handler's name in Watermill's router, where no two have the same.
func (r registered) routed() string {
	if r.is == ofGroup {
		return r.name + " " + r.topic
	}
	return r.name
}

// Handle registers handlers, those of handlers.New or any cqrs.EventHandler,
// each on the topic that its event is named. All are registered, or, with an
// error, none. It comes before Run. A handler of events that could never be
// published, named or decoded is an error.
//
// The subscriptions are in the database when Handle returns, which takes it 10 s at
// most. A handler gets every event whose publish is committed after its first
// registration, by whatever process, whenever that transaction began; with a
// Transport, all that the broker still has of the topic. A process that only
// publishes registers its handlers too, and leaves Run to others: then nothing that
// it publishes comes too early. Do not call Handle while a transaction is open that
// takes the only connection of the pool.
func (b *Bus) Handle(hs ...cqrs.EventHandler) error {
	fresh := make([]registered, len(hs))
	for i, h := range hs {
		if err := handlers.Validate(h); err != nil {
			return fmt.Errorf("bus: %w", err)
		}
		fresh[i] = registered{handler: h, name: h.HandlerName(), policy: handlers.PolicyOf(h)}
	}
	return b.register(fresh)
}

// HandleCommands registers handlers of commands, those of cqrs.NewCommandHandler or
// of handlers.New, as Handle does those of events. A command has exactly one handler:
// HandleCommands returns an error when any other handler of the command is registered
// here, or has its subscription in the database. To rename a handler, remove the
// subscription of the old name first, with "reprise handlers remove".
//
// Two processes that register different handlers of one new command at the same
// moment may both succeed; the next start of either reports it.
func (b *Bus) HandleCommands(hs ...cqrs.CommandHandler) error {
	fresh := make([]registered, len(hs))
	for i, c := range hs {
		h := handlers.OfCommand(c)
		if err := handlers.Validate(h); err != nil {
			return fmt.Errorf("bus: %w", err)
		}
		fresh[i] = registered{handler: h, name: h.HandlerName(), policy: h.Policy(), is: ofCommands}
	}
	return b.register(fresh)
}

// HandleGroup registers handlers of several types of events under one name, those
// of cqrs.NewGroupEventHandler or any other: what Handle says holds for each of them.
// The name is the group's identity in the database, and the policy is that of each
// member; what members say of a name or a policy does not count.
//
// Each type is a topic with a subscription, runs and retries of its own: an event
// that fails holds up no other, and events of different types are handled in no
// certain order. The types share the slots of Policy.Concurrency: with 1, a process
// handles one event of the group at once. A group has one handler for a type.
func (b *Bus) HandleGroup(name string, policy handlers.Policy, members ...cqrs.GroupEventHandler) error {
	if len(members) == 0 {
		return fmt.Errorf("bus: group %q has no handlers: give it one for each type of event, such as cqrs.NewGroupEventHandler(…)", name)
	}
	fresh := make([]registered, len(members))
	for i, m := range members {
		h := handlers.OfGroup(name, policy, m)
		if err := handlers.Validate(h); err != nil {
			return fmt.Errorf("bus: group %q: %w", name, err)
		}
		fresh[i] = registered{handler: h, name: name, policy: policy, is: ofGroup}
	}
	return b.register(fresh)
}

// register finds the topics of handlers, checks them against each other and those
// that are registered, and subscribes all of them or none.
func (b *Bus) register(fresh []registered) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ran {
		return errors.New("bus: Handle after Run: register all handlers first")
	}
	known := slices.Clone(b.handlers)
	for i := range fresh {
		r := &fresh[i]
		var err error
		if r.topic, err = handlers.Accepts(b.config.Marshaler, r.handler.NewEvent()); err == nil {
			err = b.config.Transport.ValidTopic(r.topic)
		}
		if err != nil {
			return fmt.Errorf("bus: handler %q: %w", r.name, err)
		}
		for j, other := range known {
			if err := r.beside(other, j >= len(b.handlers)); err != nil {
				return fmt.Errorf("bus: %w", err)
			}
		}
		known = append(known, *r)
	}
	if err := b.subscribe(fresh); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	b.handlers = known
	return nil
}

// beside reports a handler that cannot be registered beside another, which is of the
// same call or of an earlier one.
func (r registered) beside(other registered, together bool) error {
	switch {
	case r.name == other.name && r.is == ofGroup && other.is == ofGroup && together:
		if r.topic == other.topic {
			return fmt.Errorf("group %q has two handlers on topic %q, whose runs would be the same: write one that does both, or give one a name of its own with Handle", r.name, r.topic)
		}
	case r.name == other.name:
		return fmt.Errorf("two handlers are named %q (on topics %q and %q): the name is the handler's identity in the database, give each its own", r.name, other.topic, r.topic)
	}
	if r.topic == other.topic && (r.is == ofCommands || other.is == ofCommands) {
		return severalFor(r.topic, other.name, r.name)
	}
	return nil
}

func severalFor(command, known, fresh string) error {
	return fmt.Errorf("command %q has the handler %q, and cannot have %q, too: a command has exactly one handler; make it an event if several are to get it", command, known, fresh)
}

// subscribing is how long Handle waits for the database.
const subscribing = 10 * time.Second

// subscribe registers handlers and puts their subscriptions into the database, or
// leaves no trace of them in this process.
func (b *Bus) subscribe(fresh []registered) (err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), subscribing, fmt.Errorf("the database did not take the subscriptions within %v", subscribing))
	defer cancel()
	if err := b.onlyHandlers(ctx, fresh); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			for _, r := range fresh {
				b.pubsub.Unregister(r.topic, r.name)
			}
		}
	}()
	for _, r := range fresh {
		if err := b.pubsub.Register(r.topic, r.name, r.policy); err != nil {
			return err
		}
	}
	return b.pubsub.SubscribeRegistered(ctx)
}

// onlyHandlers reports commands that have another handler in the database.
func (b *Bus) onlyHandlers(ctx context.Context, fresh []registered) error {
	if !slices.ContainsFunc(fresh, func(r registered) bool { return r.is == ofCommands }) {
		return nil
	}
	var subscribed map[store.Subscription]bool
	health := outage.Outage{What: "looking for other handlers of commands", Log: b.config.Logger}
	if err := health.Until(ctx, time.Second, store.Transient, func() (err error) {
		subscribed, err = b.store.SubscriptionKeys(ctx)
		return err
	}); err != nil {
		return err
	}
	for _, r := range fresh {
		for sub := range subscribed {
			if r.is == ofCommands && sub.Topic == r.topic && sub.Handler != r.name {
				return fmt.Errorf("%w; the database has the subscription of %q, to remove it if that handler is no more: reprise handlers remove", severalFor(r.topic, sub.Handler, r.name), sub.Handler)
			}
		}
	}
	return nil
}
