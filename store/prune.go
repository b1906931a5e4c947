package store

import "time"

// Prune says what may be deleted: events that were published, and whose runs
// all ended, before a time; and what was sent from the outbox, or dropped. What
// failed or was refused stays, and so does a DISCARDED run as long as its discard
// can be undone: until the discard is undone, or another operation takes the run up.
type Prune struct {
	Before    time.Time // by the database's clock
	Failed    bool      // events with FAILED runs, too
	Discarded bool      // events with runs whose discard can be undone, too
	DryRun    bool      // only count what would be deleted

	// By is who wants it. Unless DryRun, an Action says so, and what was deleted;
	// there is none when nothing is. Daily adds it to the last action that prunes for
	// the same By, if that is of the last 24 hours and deletes the same kinds of
	// runs: for who prunes again and again.
	By    By
	Daily bool
}

// Pruned is what was deleted.
type Pruned struct {
	Events   int64
	Runs     int64
	Outgoing int64 // events in the outbox
}
