package handlers

import "github.com/ThreeDotsLabs/watermill/components/cqrs"

// OfCommand returns a handler of events made of a handler of commands, with the same
// policy.
func OfCommand(h cqrs.CommandHandler) *Handler {
	if own, ours := h.(*Handler); ours || h == nil {
		return own
	}
	return &Handler{name: h.HandlerName(), newEvent: h.NewCommand, handle: h.Handle, policies: []Policy{PolicyOf(h)}}
}

// OfGroup returns a handler made of a member of a group, with the group's name and
// policy.
func OfGroup(name string, policy Policy, member cqrs.GroupEventHandler) *Handler {
	own, ours := member.(*Handler)
	switch {
	case member == nil, ours && own == nil:
		return nil
	case ours:
		return &Handler{name: name, newEvent: own.newEvent, unfit: own.unfit, handle: own.handle, policies: []Policy{policy}}
	}
	return &Handler{name: name, newEvent: member.NewEvent, handle: member.Handle, policies: []Policy{policy}}
}
