package queue

import (
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Lease is an instance's hold on a run for one attempt. It has no time limit: it lasts
// until the attempt ends or the instance is found dead.
type Lease struct {
	RunID    int64
	Instance string
	Attempt  int
}

func (l Lease) String() string {
	return fmt.Sprintf("run %d, attempt %d, held by %.255s", l.RunID, l.Attempt, l.Instance)
}

// Outcome is how an attempt ended.
type Outcome struct {
	Lease     Lease
	Status    store.Status   // Success, Failed, or Pending to make the run due again
	Delay     time.Duration  // with Pending: time until the run is due
	Refund    bool           // with Pending: the try does not count
	NextCycle bool           // with Pending: the cycle is over; the next one begins when the run is due
	Failure   *store.Failure // stored as an Attempt and as the run's last failure; required with Failed
	OnRecord  bool           // Failure belongs to an earlier attempt, so that no Attempt is stored
	Callback  *store.Failure // failure of a callback of the policy; stored as an Attempt
}

// LeaseOf returns the lease of the run's current attempt.
func LeaseOf(r store.Run) Lease {
	return Lease{RunID: r.ID, Instance: r.Instance, Attempt: r.Attempt}
}
