package main

import (
	"time"

	"github.com/reprise-bus/reprise/handlers"
)

// updatePolicy gives a run three cycles of three tries. The waits are a
// story's: in production the cycles are an hour apart, and the tries 1 s, then
// 4 s. Those are the defaults, so leave CycleInterval and Backoff out.
func (a *app) updatePolicy() handlers.Policy {
	return handlers.Policy{
		Attempts:      3,
		Cycles:        3,
		CycleInterval: 300 * time.Millisecond,
		Backoff:       handlers.Backoff{Initial: 20 * time.Millisecond, Factor: 2},
		Timeout:       10 * time.Second,
		OnFailure:     a.publishFailure, // after each cycle that failed
		OnExhausted:   a.openTicket,     // when there is no cycle left, or no hope
	}
}
