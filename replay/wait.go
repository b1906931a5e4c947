package replay

import (
	"context"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// lookEvery is the shortest time between two reads of an operation's progress.
const lookEvery = 500 * time.Millisecond

// Wait waits until an operation is over, and returns what has become of its runs. It
// reads the progress every half second, or less often if a read takes long. After each
// read it calls progress, if it is not nil.
//
// When ctx ends, Wait returns the last progress with the error; the operation continues.
// Wait does not wait for events that are published by hand, since nobody knows whether
// the publisher continues.
func Wait(ctx context.Context, st *store.Store, operation int64, progress func(store.Progress)) (store.Progress, error) {
	for {
		began := time.Now()
		p, err := st.Progress(ctx, operation)
		if err != nil {
			return p, err
		}
		if progress != nil {
			progress(p)
		}
		if p.Over() || p.Kind == store.Publishing {
			return p, nil
		}
		timer := time.NewTimer(max(lookEvery, 4*time.Since(began)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return p, ctx.Err()
		case <-timer.C:
		}
	}
}
