package sqldb

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// What the database refuses because of others at work at the same time is tried
// again, after pauses that grow from the first one. PostgreSQL has waited before
// it refuses: it is asked so many times. After a deadlock the others need time to
// finish: whoever came back at once would deadlock with the next. SQLite may refuse
// at once: it is asked for so long, in pauses that stay short, since it keeps no
// queue of who waits.
const (
	collisions     = 8
	collisionPause = 2 * time.Millisecond
	deadlockPause  = 25 * time.Millisecond
	busyPatience   = 10 * time.Second
	busyPause      = 20 * time.Millisecond

	deadlock = "40P01"
)

// Again calls f until it succeeds, fails for a reason other than a collision (see
// Collided) or a statement that the server has lost, or has done so 8 times; on
// SQLite, for 10 s. It returns the error of the last call. f must set whatever it
// sets anew.
func Again(ctx context.Context, f func() error) error {
	began := time.Now()
	for try := 1; ; try++ {
		err := f()
		var sent *SentError
		if err == nil || !Collided(err) && !outdated(err) || errors.As(err, &sent) && sent.Times > 1 { // nobody knows of the first time
			return err
		}
		pause := collisionPause << min(try-1, collisions)
		switch {
		case dialect.Busy(err):
			if time.Since(began) > busyPatience {
				return err
			}
			pause = min(pause, busyPause)
		case try == collisions:
			return err
		case State(err) == deadlock:
			pause = deadlockPause << (try - 1)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// Collided says whether the database refused a statement, or a transaction, only
// because of others at the same time: nothing of it is written, and it may well
// succeed when it is tried again.
func Collided(err error) bool {
	switch State(err) {
	case serializationFailure, deadlock:
		return true
	}
	return dialect.Busy(err)
}
