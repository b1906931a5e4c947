package sqldb

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Again retries what the database refuses because of concurrent work, after growing
// pauses.
//
// PostgreSQL waits before it refuses, so that the number of calls is limited. After a
// deadlock, the other transactions need time to finish: an immediate retry would
// deadlock with the next of them. SQLite may refuse at once, so that the time is
// limited. Its pauses stay short, because SQLite keeps no queue of waiting writers.
const (
	collisions     = 8
	collisionPause = 2 * time.Millisecond
	deadlockPause  = 25 * time.Millisecond
	busyPatience   = 10 * time.Second
	busyPause      = 20 * time.Millisecond

	deadlock = "40P01"
)

// Again calls f until it succeeds or fails for a reason other than a collision (see
// Collided) or a prepared statement that the server has lost. It makes at most 8 calls;
// on SQLite it retries for 10 s. It returns the error of the last call. f must reset
// everything that it sets.
func Again(ctx context.Context, f func() error) error {
	began := time.Now()
	for try := 1; ; try++ {
		err := f()
		var sent *SentError
		if err == nil || !Collided(err) && !outdated(err) || errors.As(err, &sent) && sent.Times > 1 { // the effect of the first sending is unknown
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

// Collided reports whether the database refused a statement or a transaction only
// because of concurrent work. Nothing of it is written, and a retry may succeed.
func Collided(err error) bool {
	switch State(err) {
	case serializationFailure, deadlock:
		return true
	}
	return dialect.Busy(err)
}
