package store

import "time"

// Prune says what may be deleted: events that were published before a time and whose
// runs all ended before it, and events of the outbox that were sent or dropped. Failed
// runs and refused events stay. A DISCARDED run stays as long as its discard can be
// undone: until the discard is undone, or another operation takes the run up.
type Prune struct {
	Before    time.Time // by the database's clock
	Failed    bool      // also delete events with FAILED runs
	Discarded bool      // also delete events with runs whose discard can be undone
	DryRun    bool      // only count what would be deleted

	// By says who asks for the prune. Unless DryRun is set, an Action records it and
	// what was deleted; there is no Action when nothing is deleted. Daily adds to the
	// last prune Action of the same By if it is less than 24 hours old and deletes the
	// same kinds of runs. It is for a process that prunes again and again.
	By    By
	Daily bool
}

// Pruned is what was deleted.
type Pruned struct {
	Events   int64
	Runs     int64
	Outgoing int64 // events of the outbox
}
