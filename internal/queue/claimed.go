package queue

import (
	"fmt"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// claimedRow is a leased run with its event, if the event is not lost.
type claimedRow struct {
	RunID   int64  `db:"run_id"`
	Handler string `db:"handler"`
	Attempt int    `db:"attempt"`
	Tries   int    `db:"tries"`
	Cycle   int    `db:"cycle"`
	Lost    bool   `db:"lost"`

	// The run's own copy: its event may be lost.
	RunPublishedAt sqldb.Time `db:"run_published_at"`
	StartedAt      sqldb.Time `db:"started_at"`
	ReplayID       int64      `db:"replay_id"`
	ErrorKind      store.Kind `db:"error_kind"`
	Error          string     `db:"error"`
	Fingerprint    string     `db:"fingerprint"`
	sqldb.EventRow
}

func (r *claimedRow) claimed(instance string) *Claimed {
	event, err := store.EventOf(r.EventRow)
	c := &Claimed{
		Run: store.Run{
			ID: r.RunID, EventID: event.ID, Topic: event.Topic, Handler: r.Handler, Status: store.Pending,
			Attempt: r.Attempt, Tries: r.Tries, Cycle: r.Cycle, Key: event.Key, Instance: instance,
			StartedAt: r.StartedAt.Time, PublishedAt: r.RunPublishedAt.Time, ReplayID: r.ReplayID,
			ErrorKind: r.ErrorKind, Error: r.Error, Fingerprint: r.Fingerprint,
		},
		Event: event,
	}
	switch {
	case r.Lost:
		c.Unusable = fmt.Sprintf("event %q of topic %q is no longer in the database", event.ID, event.Topic)
	case err != nil:
		c.Unusable = err.Error()
	}
	return c
}
