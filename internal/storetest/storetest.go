// Package storetest checks that a store keeps its promises, whatever the
// database and its driver.
package storetest

import (
	"testing"

	"github.com/reprise-bus/reprise/store"
)

// Run checks every promise as a parallel subtest of its own. open returns a
// store whose tables are empty, which the test has to itself until it ends;
// it may be the default schema's or another's.
func Run(t *testing.T, open func(t *testing.T) *store.Store) {
	for name, promises := range map[string]func(promise){
		"publish":   publishing,
		"payload":   payloads,
		"subscribe": subscribing,
		"claim":     claiming,
		"end":       ending,
		"record":    recording,
		"receive":   receiving,
		"instance":  living,
		"recover":   recovering,
		"list":      listing,
		"replay":    replaying,
		"control":   controlling,
		"discard":   discarding,
		"action":    acting,
		"edit":      editing,
		"backfill":  backfilling,
		"prune":     pruning,
		"select":    selecting,
		"groups":    grouping,
		"outbox":    relaying,
		"context":   cancelling,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promises(func(text string, kept func(t *testing.T, db db)) {
				t.Run(text, func(t *testing.T) {
					t.Parallel()
					kept(t, wrap(t, open(t)))
				})
			})
		})
	}
}

// promise runs kept as the test of a promise, on a database of its own.
type promise func(text string, kept func(t *testing.T, db db))
