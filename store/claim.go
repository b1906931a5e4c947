package store

import (
	"context"
	"fmt"
	"slices"
)

// Want asks for at most N due runs of a handler on a topic.
type Want struct {
	Topic   string
	Handler string
	N       int
}

// Claimed is a run that was leased, with its event.
type Claimed struct {
	Run   Run // as far as its lease and its policy go
	Event Event

	unusable string // why the event cannot be handled
}

// Subscription returns what the run belongs to.
func (c *Claimed) Subscription() Subscription {
	return Subscription{Topic: c.Run.Topic, Handler: c.Run.Handler}
}

// Claim leases due runs to the instance, the longest due first, and counts the
// attempt. Any number of instances may claim at once: each run goes to one. An
// instance that is not registered gets nothing.
//
// A run whose event is gone, or whose metadata somebody has made unreadable, is
// ended as FAILED and not returned: no handler and no callback hears of it.
func (s *Store) Claim(ctx context.Context, instance string, wants []Want) ([]Claimed, error) {
	wants = slices.DeleteFunc(slices.Clone(wants), func(w Want) bool { return w.N <= 0 })
	if len(wants) == 0 {
		return nil, nil
	}
	claimed, err := s.dialect.claim(ctx, s, instance, wants)
	if err != nil {
		return nil, fmt.Errorf("claim due runs: %w", err)
	}
	present := claimed[:0]
	var lost []Outcome
	for _, c := range claimed {
		if c.unusable == "" {
			present = append(present, c)
			continue
		}
		lost = append(lost, Outcome{Lease: c.Run.Lease(), Status: Failed, Failure: NewFailure(c.Run.Handler, KindLost, c.unusable)})
	}
	if _, err := s.End(ctx, lost); err != nil {
		return present, err
	}
	return present, nil
}
