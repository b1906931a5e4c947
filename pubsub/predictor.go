package pubsub

import "sync/atomic"

// predictor expects the events of the next batch to be new if those of the last batches
// were. Such a batch is written by a statement that does not look for known events, and
// fails if there is one.
type predictor struct{ batches atomic.Int64 } // batches since an event was known already

// likelyNew is after how many batches of new events in a row the next is expected to be
// new.
const likelyNew = 8

func (n *predictor) expectsNew() bool { return n.batches.Load() >= likelyNew }

// learn notes whether every event of a batch was new.
func (n *predictor) learn(all bool) {
	if !all {
		n.batches.Store(0)
		return
	}
	n.batches.Add(1)
}
