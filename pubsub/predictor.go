package pubsub

import "sync/atomic"

// predictor expects the next batch to be new when the last ones were. What is
// expected to be new is written by a statement that looks for nothing else, and
// fails when that was wrong.
type predictor struct{ batches atomic.Int64 } // since an event was known already

// likelyNew is after how many batches in which every event was new the next one
// is expected to be like that.
const likelyNew = 8

func (n *predictor) expectsNew() bool { return n.batches.Load() >= likelyNew }

// learn is told whether every event of a batch was new.
func (n *predictor) learn(all bool) {
	if !all {
		n.batches.Store(0)
		return
	}
	n.batches.Add(1)
}
