package store

import (
	"context"
	"math/rand/v2"
	"time"
)

// What the database refuses because of others at work at the same time is tried
// again this often, after pauses that grow from the first one.
const (
	collisions     = 8
	collisionPause = 2 * time.Millisecond
)

// again calls f until it succeeds, fails for a reason of its own, or has
// collided with others too often.
func (s *Store) again(ctx context.Context, f func() error) error {
	for try, pause := 1, collisionPause; ; try, pause = try+1, 2*pause {
		err := f()
		if err == nil || try == collisions || !Collided(err) {
			return err
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
	case "40001", "40P01": // serialization failure, deadlock
		return true
	}
	return false
}
