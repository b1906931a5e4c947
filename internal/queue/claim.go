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
	Claims   int64   // claims that leased runs, as far as the instance knows
	Held     []int64 // the runs that the instance holds
}

// Claimed is a run that was leased, with its event.
type Claimed struct {
	Run   store.Run // only the fields for its lease and its policy
	Event store.Event

	// Unusable says why the event cannot be handled: it is gone, or its metadata is
	// unreadable. "" means that it can. The caller must end an unusable run as FAILED,
	// of KindLost.
	Unusable string
}

// Subscription returns the run's topic and handler.
func (c *Claimed) Subscription() store.Subscription {
	return store.Subscription{Topic: c.Run.Topic, Handler: c.Run.Handler}
}

// Claim leases due runs to the instance, the longest due first, and counts the attempt.
// Any number of instances may claim at once: each run goes to one of them. An instance
// that is not registered gets no run.
//
// An instance makes one claim at a time. When the database has counted more claims than
// by.Claims, an answer was lost: Claim leases nothing, and Heartbeat returns the
// database's count. A claim that the pool sends twice, or that the server executes
// late, therefore leases nothing.
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
