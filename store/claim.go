package store

import (
	"context"
	"fmt"
)

// Want asks for at most N due runs of a handler on a topic.
type Want struct {
	Topic   string
	Handler string
	N       int
}

// Claimed is a run that was leased, with its event.
type Claimed struct {
	Lease   Lease
	Handler string
	Event   Event

	lost bool // the event is not in the database
}

// Claim leases due runs to the instance, the longest due first, and counts the
// attempt. Any number of instances may claim at once: each run goes to one. An
// instance that is not registered gets nothing.
//
// A run whose event is gone is ended as FAILED and not returned.
func (s *Store) Claim(ctx context.Context, instance string, wants []Want) ([]Claimed, error) {
	claimed, err := s.dialect.claim(ctx, s, instance, wants)
	if err != nil {
		return nil, fmt.Errorf("claim due runs: %w", err)
	}
	present := claimed[:0]
	var lost []Outcome
	for _, c := range claimed {
		if !c.lost {
			present = append(present, c)
			continue
		}
		lost = append(lost, Outcome{Lease: c.Lease, Status: Failed, Failure: &Failure{
			Kind: KindLost, Message: fmt.Sprintf("event %q of topic %q is no longer in the database", c.Event.ID, c.Event.Topic),
		}})
	}
	if _, err := s.End(ctx, lost); err != nil {
		return present, err
	}
	return present, nil
}
