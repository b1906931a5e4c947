// Package registry decides which handlers a bus accepts together.
package registry

import (
	"fmt"
	"slices"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/reprise-bus/reprise/handlers"
)

// Handler is a handler of one topic. The handlers of a group share their name.
type Handler struct {
	Handler cqrs.EventHandler
	Name    string
	Topic   string // set by Add
	Policy  handlers.Policy
	Is      Kind
}

// Kind is the kind of a handler.
type Kind int

// The kinds.
const (
	OfEvents Kind = iota
	OfCommands
	OfGroup
)

// Events returns handlers of events.
func Events(hs []cqrs.EventHandler) ([]Handler, error) {
	fresh := make([]Handler, len(hs))
	for i, h := range hs {
		if err := handlers.Validate(h); err != nil {
			return nil, err
		}
		fresh[i] = Handler{Handler: h, Name: h.HandlerName(), Policy: handlers.PolicyOf(h)}
	}
	return fresh, nil
}

// Commands returns handlers of commands.
func Commands(hs []cqrs.CommandHandler) ([]Handler, error) {
	fresh := make([]Handler, len(hs))
	for i, c := range hs {
		h := handlers.OfCommand(c)
		if err := handlers.Validate(h); err != nil {
			return nil, err
		}
		fresh[i] = Handler{Handler: h, Name: h.HandlerName(), Policy: h.Policy(), Is: OfCommands}
	}
	return fresh, nil
}

// Group returns the handlers of a group.
func Group(name string, policy handlers.Policy, members []cqrs.GroupEventHandler) ([]Handler, error) {
	if len(members) == 0 {
		return nil, fmt.Errorf("group %q has no handlers: give it one for each type of event, such as cqrs.NewGroupEventHandler(…)", name)
	}
	fresh := make([]Handler, len(members))
	for i, m := range members {
		h := handlers.OfGroup(name, policy, m)
		if err := handlers.Validate(h); err != nil {
			return nil, fmt.Errorf("group %q: %w", name, err)
		}
		fresh[i] = Handler{Handler: h, Name: name, Policy: policy, Is: OfGroup}
	}
	return fresh, nil
}

// Add finds the topics of the handlers of one call, checks the handlers against each
// other and against the known ones, and returns all of them. valid reports a topic or a
// name that the bus cannot have.
func Add(known, fresh []Handler, marshaler cqrs.CommandEventMarshaler, valid func(h Handler) error) ([]Handler, error) {
	all := slices.Clone(known)
	for i := range fresh {
		h := &fresh[i]
		var err error
		if h.Topic, err = handlers.Accepts(marshaler, h.Handler.NewEvent()); err == nil {
			err = valid(*h)
		}
		if err != nil {
			return nil, fmt.Errorf("handler %q: %w", h.Name, err)
		}
		for j, other := range all {
			if err := h.beside(other, j >= len(known)); err != nil {
				return nil, err
			}
		}
		all = append(all, *h)
	}
	return all, nil
}

// beside reports a handler that cannot be registered together with another. together
// says that both are of the same call.
func (h Handler) beside(other Handler, together bool) error {
	switch {
	case h.Name == other.Name && h.Is == OfGroup && other.Is == OfGroup && together:
		if h.Topic == other.Topic {
			return fmt.Errorf("group %q has two handlers on topic %q, whose runs would be the same: write one that does both, or give one a name of its own with Handle", h.Name, h.Topic)
		}
	case h.Name == other.Name:
		return fmt.Errorf("two handlers are named %q (on topics %q and %q): the name is the handler's identity in the database, give each its own", h.Name, other.Topic, h.Topic)
	}
	if h.Topic == other.Topic && (h.Is == OfCommands || other.Is == OfCommands) {
		return SeveralFor(h.Topic, other.Name, h.Name)
	}
	return nil
}

// SeveralFor returns the error for a command with two handlers.
func SeveralFor(command, known, fresh string) error {
	return fmt.Errorf("command %q has the handler %q, and cannot have %q, too: a command has exactly one handler; make it an event if several are to get it", command, known, fresh)
}
