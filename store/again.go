package store

import (
	"context"
	"errors"
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
// collided with others, or met a statement that the server has lost, too often.
func (s *Store) again(ctx context.Context, f func() error) error {
	for try, pause := 1, collisionPause; ; try, pause = try+1, 2*pause {
		err := f()
		var sent *sentError
		resent := errors.As(err, &sent) && sent.times > 1 // nobody knows of the first time
		if err == nil || try == collisions || resent || !Collided(err) && !outdated(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// HeldUp says whether the database gave a statement up that took too long by its
// settings, such as one that waited for a lock.
func HeldUp(err error) bool {
	state := sqlState(err)
	return state == "55P03" || state == "57014" // lock_timeout, statement_timeout
}

// Collided says whether the database refused a statement, or a transaction, only
// because of others at the same time: nothing of it is written, and it may well
// succeed when it is tried again.
func Collided(err error) bool {
	switch sqlState(err) {
	case serializationFailure, "40P01": // the latter is a deadlock
		return true
	}
	return false
}
