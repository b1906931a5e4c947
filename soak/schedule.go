package main

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// kind is a kind of fault.
type kind string

const (
	faultKill      kind = "kill"      // SIGKILL a process
	faultFreeze    kind = "freeze"    // SIGSTOP one for longer than it takes to be found dead, then SIGCONT
	faultTerminate kind = "terminate" // SIGTERM one
	faultRestart   kind = "restart"   // stop and start the database
	faultCut       kind = "cut"       // reset all connections of all processes
	faultStall     kind = "stall"     // one process's statements and answers arrive seconds late
	faultSlow      kind = "slow"      // everybody's do, by some milliseconds
	faultReplay    kind = "replay"    // no fault, but an operator's request to run what failed again
	faultSuspend   kind = "suspend"   // SIGSTOP all processes together for longer than it takes to be found dead, then SIGCONT
	faultBusy      kind = "busy"      // long statements on most connections of one process, whose prepared statements are lost meanwhile
	faultLock      kind = "lock"      // a session keeps leased runs of one handler locked
	faultDiscard   kind = "discard"   // DISCARD ALL on connections of one process
	faultAdd       kind = "add"       // no fault, but a new handler in all processes that handle, and its removal
)

// kinds lists all, in the order in which they are reported.
func kinds() []kind {
	return []kind{faultKill, faultFreeze, faultTerminate, faultRestart, faultCut, faultStall, faultSlow, faultReplay,
		faultSuspend, faultBusy, faultLock, faultDiscard, faultAdd}
}

// fault is one fault to come.
type fault struct {
	kind kind
	at   time.Duration
	seed uint64 // of what it decides by chance
}

// schedule derives the faults of a soak from its seed: each kind spread evenly
// over the time, each at a random moment of its share, and one at least of
// each that has a rate.
func schedule(seed uint64, length time.Duration, perMinute map[kind]float64) []fault {
	var all []fault
	for i, k := range kinds() {
		rate := perMinute[k]
		if rate <= 0 {
			continue
		}
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		n := max(1, int(math.Round(rate*length.Minutes())))
		share := length / time.Duration(n)
		for j := range n {
			at := time.Duration(j)*share + time.Duration(rng.Float64()*float64(share)*0.8)
			all = append(all, fault{kind: k, at: at, seed: rng.Uint64()})
		}
	}
	slices.SortStableFunc(all, func(a, b fault) int { return int(a.at - b.at) })
	return all
}
