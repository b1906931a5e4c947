package queue

import (
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Lease is an instance's hold on a run for one attempt. It has no time limit:
// it lasts until the attempt ends or the instance is found dead.
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
	Delay     time.Duration  // with Pending: until it is due
	Refund    bool           // with Pending: the try does not count
	NextCycle bool           // with Pending: the cycle is over, the next begins when the run is due
	Failure   *store.Failure // kept as an Attempt, and as the run's last failure; required with Failed
	OnRecord  bool           // Failure is that of an earlier attempt: there was none now, and none is kept
	Callback  *store.Failure // of a callback of the policy: kept as an Attempt
}

// LeaseOf returns the hold on a run of the attempt that is under way.
func LeaseOf(r store.Run) Lease {
	return Lease{RunID: r.ID, Instance: r.Instance, Attempt: r.Attempt}
}
