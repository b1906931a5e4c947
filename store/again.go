package store

import (
	"context"
	"math/rand/v2"
	"time"
)

// What the database refuses because of others at work at the same time is tried
// this often, with pauses that grow from the first one. After a deadlock the others
// need time to finish: whoever came back at once would deadlock with the next.
const (
	collisions     = 8
	collisionPause = 2 * time.Millisecond
	deadlockPause  = 25 * time.Millisecond

	deadlock = "40P01"
)

// Again calls f until it succeeds, fails for a reason other than a collision
// (see Collided), or has collided 8 times. It returns the error of the last call.
// f must set whatever it sets anew.
func Again(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		if err == nil || try == collisions || !Collided(err) {
			return err
		}
		pause := collisionPause << (try - 1)
		if sqlState(err) == deadlock {
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
	switch sqlState(err) {
	case "40001", deadlock: // serialization failure
		return true
	}
	return false
}
