package queue

import (
	"context"
	"fmt"
	"slices"

	"github.com/reprise-bus/reprise/store"
)

// Want asks for at most N due runs of a handler on a topic.
type Want struct {
	Topic   string
	Handler string
	N       int
}

// Claimant is the instance that claims.
type Claimant struct {
	Instance string
	Claims   int64   // that leased runs, as far as it knows
	Held     []int64 // the runs that it holds
}

// Claimed is a run that was leased, with its event.
type Claimed struct {
	Run   store.Run // as far as its lease and its policy go
	Event store.Event

	// Unusable says why the event cannot be handled, if so: it is gone, or
	// somebody has made its metadata unreadable. Such a run is to be ended as
	// FAILED, of KindLost.
	Unusable string
}

// Subscription returns what the run belongs to.
func (c *Claimed) Subscription() store.Subscription {
	return store.Subscription{Topic: c.Run.Topic, Handler: c.Run.Handler}
}

// Claim leases due runs to the instance, the longest due first, and counts the
// attempt. Any number of instances may claim at once: each run goes to one. An
// instance that is not registered gets nothing.
//
// An instance makes one claim at a time. If the database knows of more claims than
// the claimant, since the answer to one was lost, nothing is leased any more, and
// Heartbeat tells. So a claim that the pool sends twice, or that the server
// carries out late, does no harm.
func (q *Queue) Claim(ctx context.Context, by Claimant, wants []Want) ([]*Claimed, error) {
	wants = slices.DeleteFunc(slices.Clone(wants), func(w Want) bool { return w.N <= 0 })
	if len(wants) == 0 {
		return nil, nil
	}
	if err := validWants(by.Instance, wants); err != nil {
		return nil, fmt.Errorf("claim due runs: %w", err)
	}
	claimed, err := q.dialect.claim(ctx, q, by, wants)
	if err != nil {
		return nil, fmt.Errorf("claim due runs: %w", err)
	}
	return claimed, nil
}
