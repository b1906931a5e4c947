package main

import (
	"fmt"

	"github.com/reprise-bus/reprise/store"
)

// promise is one that Reprise makes about each event. check says how many
// cases the history holds, and describes those in which it is broken.
type promise struct {
	name  string
	check func(h *history) (cases int, broken []string)
}

// promises lists what is checked event by event.
func promises() []promise {
	return []promise{
		{"a publish that returned nil is there, its payload byte for byte", committedIsThere},
		{"no publish fails since the server has lost a prepared statement", lostIsPreparedAnew},
		{"what was rolled back, or said that nothing was written, is not there", absentIsNotThere},
		{"a business row and its event are there together or not at all", businessRow},
		{"what is published on two topics at once, or follows in a handler's transaction, is there together", following},
		{"each event has one run for each subscribed handler, and no other", oneRunEach},
		{"a handler that is added has one run of each event that is committed until it is removed", addedHasItsRuns},
		{"every run has ended as its script demands", endsAsScripted},
		{"a transactional handler's effect is there once for a SUCCESS, never otherwise", effectsOnce},
		{"at least once: a SUCCESS was begun on its last attempt", beganAtLeastOnce},
		{"a lease is begun once at most", leaseBegunOnce},
		{"every attempt that began and did not succeed is on record", attemptsOnRecord},
		{"a FAILED run has kind, message, fingerprint and its last attempt", failuresOnRecord},
		{"what was replayed has run again, its earlier attempts still on record", replayedAgain},
		{"what killed its process is on record as abandoned", killsAbandoned},
		{"OnExhausted was called for a FAILED run, and for no other", exhaustedCalled},
	}
}

func committedIsThere(h *history) (int, []string) {
	switch h.known.fact {
	case committed:
	case disputed:
		return 1, []string{fmt.Sprintf("event %s was refused as another event's id", h.id)}
	default:
		return 0, nil
	}
	payload, ok := h.payloads[topicOrdered]
	switch {
	case !ok:
		return 1, []string{fmt.Sprintf("event %s was committed and is not there", h.id)}
	case checksum(payload) != h.known.checksum:
		return 1, []string{fmt.Sprintf("event %s came back with another payload: %s", h.id, payload)}
	default:
		return 1, nil
	}
}

func lostIsPreparedAnew(h *history) (int, []string) {
	switch {
	case h.known.fact == "":
		return 0, nil
	case h.known.lost > 0:
		return 1, []string{fmt.Sprintf("event %s was refused %d times", h.id, h.known.lost)}
	default:
		return 1, nil
	}
}

func absentIsNotThere(h *history) (int, []string) {
	if h.known.fact != absent {
		return 0, nil
	}
	if len(h.payloads) == 0 && h.orders == 0 {
		return 1, nil
	}
	return 1, []string{fmt.Sprintf("event %s, published by way %q, is there", h.id, h.ordered.Way)}
}

func businessRow(h *history) (int, []string) {
	want := 0
	if h.has(topicOrdered) && h.ordered.Way.business() {
		want = 1
	}
	switch {
	case want == 0 && h.orders == 0:
		return 0, nil
	case h.orders != want:
		return 1, []string{fmt.Sprintf("event %s (there: %v, way %q) has %d business rows, want %d", h.id, h.has(topicOrdered), h.ordered.Way, h.orders, want)}
	default:
		return 1, nil
	}
}

func following(h *history) (int, []string) {
	want := false
	switch {
	case h.ordered.Way == wayTogether:
		want = true
	case h.ordered.Script.Follow:
		for _, r := range h.runs[subscription{topicOrdered, nameEffect}] {
			want = r.status == store.Success
		}
	}
	if h.has(topicPaid) == want {
		return b2i(want), nil
	}
	return 1, []string{fmt.Sprintf("event %s on topic %s is there: %v, want %v", h.id, topicPaid, h.has(topicPaid), want)}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func oneRunEach(h *history) (cases int, broken []string) {
	wanted := map[subscription]bool{}
	for _, d := range duties() {
		s := subscription{d.topic, d.name}
		if !h.has(d.topic) {
			continue
		}
		wanted[s] = true
		cases++
		if n := len(h.runs[s]); n != 1 {
			broken = append(broken, fmt.Sprintf("event %s has %d runs of handler %s", h.id, n, d.name))
		}
	}
	for _, a := range h.added {
		if s := (subscription{topicOrdered, a.name}); h.has(topicOrdered) && len(h.runs[s]) < 2 { // more are addedHasItsRuns's
			wanted[s] = true
		}
	}
	for s := range h.runs {
		if !wanted[s] {
			broken = append(broken, fmt.Sprintf("event %s has a run of handler %s on topic %s, which it has not", h.id, s.handler, s.topic))
		}
	}
	return cases, broken
}

func addedHasItsRuns(h *history) (cases int, broken []string) {
	for _, a := range h.added {
		s := subscription{topicOrdered, a.name}
		due := h.has(topicOrdered) && h.known.fact == committed && a.had(h.known)
		if !due && len(h.runs[s]) == 0 {
			continue
		}
		cases++
		ended := func(r run) bool { return r.status == store.Success || a.dropped && r.status == store.Discarded }
		switch n := len(h.runs[s]); {
		case n == 0:
			broken = append(broken, fmt.Sprintf("event %s, published by way %q and committed between %v and %v, has no run of handler %s, %v",
				h.id, h.ordered.Way, h.known.began, h.known.ended, a.name, a))
		case n > 1 || !ended(h.runs[s][0]):
			broken = append(broken, h.story(s))
		}
	}
	return cases, broken
}

// eachRun checks every run that there is.
func eachRun(h *history, check func(d duty, s subscription, r run) (applies, holds bool)) (cases int, broken []string) {
	for _, d := range duties() {
		s := subscription{d.topic, d.name}
		for _, r := range h.runs[s] {
			applies, holds := check(d, s, r)
			if applies {
				cases++
			}
			if applies && !holds {
				broken = append(broken, h.story(s))
			}
		}
	}
	return cases, broken
}

func endsAsScripted(h *history) (int, []string) {
	return eachRun(h, func(d duty, s subscription, r run) (bool, bool) {
		status, kind := d.ending(h.ordered.Script)
		if r.status == status && (status == store.Success || r.kind == string(kind)) {
			return true, true
		}
		return true, r.status == store.Failed && h.exhausted(d, s)
	})
}

// exhausted says whether deaths and failures on record used up all attempts
// that the policy allows.
func (h *history) exhausted(d duty, s subscription) bool {
	used := 0
	for _, a := range h.attempts[s] {
		if k := store.Kind(a.kind); k != store.KindInterrupted && k != store.KindCallback {
			used++
		}
	}
	return used >= d.policy.Attempts*d.policy.Cycles
}

func effectsOnce(h *history) (int, []string) {
	return eachRun(h, func(d duty, s subscription, r run) (bool, bool) {
		effects := h.effects[s]
		if !d.policy.Transactional || r.status != store.Success {
			return d.policy.Transactional, len(effects) == 0
		}
		return true, len(effects) == 1 && effects[0] == r.attempt
	})
}

func beganAtLeastOnce(h *history) (int, []string) {
	return eachRun(h, func(d duty, s subscription, r run) (bool, bool) {
		return d.notes && r.status == store.Success, h.begun(s, r.attempt) >= 1
	})
}

// begun is how often an attempt began.
func (h *history) begun(s subscription, attempt int) (n int) {
	for _, note := range h.notes[s] {
		if note.what == noteBegun && note.attempt == attempt {
			n++
		}
	}
	return n
}

func leaseBegunOnce(h *history) (int, []string) {
	return eachRun(h, func(d duty, s subscription, r run) (bool, bool) {
		seen := map[int]bool{}
		for _, n := range h.notes[s] {
			if n.what != noteBegun {
				continue
			}
			if seen[n.attempt] || n.attempt > r.attempt {
				return true, false
			}
			seen[n.attempt] = true
		}
		return d.notes, true
	})
}

func attemptsOnRecord(h *history) (int, []string) {
	return eachRun(h, func(d duty, s subscription, r run) (applies, holds bool) {
		recorded := map[int]bool{}
		for _, a := range h.attempts[s] {
			recorded[a.attempt] = recorded[a.attempt] || a.kind != string(store.KindCallback)
		}
		for _, n := range h.notes[s] {
			snoozed := d.name == nameSnoozing && n.attempt <= h.ordered.Script.Snoozes
			succeeded := n.attempt == r.attempt && r.status == store.Success
			if n.what != noteBegun || snoozed || succeeded {
				continue
			}
			applies = true
			if !recorded[n.attempt] {
				return true, false
			}
		}
		return applies, true
	})
}

func failuresOnRecord(h *history) (int, []string) {
	return eachRun(h, func(_ duty, s subscription, r run) (bool, bool) {
		if r.status != store.Failed {
			return false, true
		}
		// A run whose tries are used up ends by its last attempt's error, on
		// another number: there was no attempt then.
		last := false
		for _, a := range h.attempts[s] {
			last = last || a.attempt <= r.attempt && a.kind == r.kind && a.message == r.message
		}
		return true, last && r.kind != "" && r.message != "" && r.fingerprint != ""
	})
}

func replayedAgain(h *history) (int, []string) {
	return eachRun(h, func(_ duty, s subscription, r run) (bool, bool) {
		failed := map[int]bool{}
		for _, a := range h.attempts[s] {
			failed[a.attempt] = failed[a.attempt] || a.kind != string(store.KindCallback)
		}
		return r.replayed, len(failed) >= 2 || len(failed) == 1 && r.status == store.Success
	})
}

func killsAbandoned(h *history) (int, []string) {
	return eachRun(h, func(d duty, s subscription, r run) (bool, bool) {
		if d.name != nameKiller || !h.ordered.Script.Kills || h.begun(s, 1) == 0 {
			return false, true
		}
		for _, a := range h.attempts[s] {
			if a.attempt == 1 && a.kind == string(store.KindAbandoned) {
				return true, true
			}
		}
		return true, false
	})
}

func exhaustedCalled(h *history) (int, []string) {
	return eachRun(h, func(d duty, s subscription, r run) (bool, bool) {
		if d.name != nameDoomed {
			return false, true
		}
		called := false
		for _, n := range h.notes[s] {
			called = called || n.what == noteExhausted
		}
		return true, called == (r.status == store.Failed)
	})
}
