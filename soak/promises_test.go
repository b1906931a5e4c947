package main

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// An audit that finds nothing is worth something when it finds what is there:
// each test breaks one thing in a history that keeps every promise.
func TestABrokenPromiseIsFound(t *testing.T) {
	ordered := func(name string) subscription { return subscription{topicOrdered, name} }
	for name, c := range map[string]struct {
		spoil  func(h *history)
		breaks []string // promises
	}{
		"nothing is broken": {func(*history) {}, nil},
		"a committed event is gone": {
			func(h *history) {
				delete(h.payloads, topicOrdered)
				h.orders = 0
				h.ordered = Ordered{}
				dropRuns(h, topicOrdered)
			},
			[]string{"committed", "following"},
		},
		"a payload is another":                       {func(h *history) { h.known.checksum = "00000000" }, []string{"committed"}},
		"an id is refused":                           {func(h *history) { h.known.fact = disputed }, []string{"committed"}},
		"a publish was refused for a lost statement": {func(h *history) { h.known.lost = 1 }, []string{"lost"}},
		"an undone event is there": {
			func(h *history) { h.known.fact = absent }, []string{"absent"},
		},
		"the business row is missing": {func(h *history) { h.orders = 0 }, []string{"business"}},
		"the following event is missing": {
			func(h *history) { delete(h.payloads, topicPaid); dropRuns(h, topicPaid) }, []string{"following"},
		},
		"a run is missing": {func(h *history) { delete(h.runs, ordered(nameNote)) }, []string{"one run"}},
		"a run is double": {
			func(h *history) { s := ordered(nameNote); h.runs[s] = append(h.runs[s], h.runs[s][0]) }, []string{"one run"},
		},
		"an added handler's run is missing": {func(h *history) { delete(h.runs, ordered("added-1")) }, []string{"added"}},
		"an added handler's run is double": {
			func(h *history) { s := ordered("added-1"); h.runs[s] = append(h.runs[s], h.runs[s][0]) }, []string{"one run", "added"},
		},
		"an added handler's run is pending": {func(h *history) { h.runs[ordered("added-1")][0].status = store.Pending }, []string{"added"}},
		"a removed handler had no run any more": {
			func(h *history) { delete(h.runs, ordered("added-1")); h.added[0].until = h.known.began }, nil,
		},
		"a removed handler's run is discarded": {
			func(h *history) { h.runs[ordered("added-1")][0].status = store.Discarded; h.added[0].dropped = true }, nil,
		},
		"a run is pending":      {func(h *history) { h.runs[ordered(nameSlow)][0].status = store.Pending }, []string{"ends", "attempts"}},
		"a run failed":          {func(h *history) { fail(h, ordered(nameSlow), "error") }, []string{"ends", "attempts", "failures"}},
		"a failure is another":  {func(h *history) { h.runs[ordered(nameDoomed)][0].kind = "panic" }, []string{"ends", "failures"}},
		"an effect is missing":  {func(h *history) { delete(h.effects, ordered(nameEffect)) }, []string{"effects"}},
		"an effect is double":   {func(h *history) { s := ordered(nameEffect); h.effects[s] = append(h.effects[s], 1) }, []string{"effects"}},
		"a handler never began": {func(h *history) { delete(h.notes, ordered(nameNote)) }, []string{"began"}},
		"an attempt began twice": {
			func(h *history) { s := ordered(nameNote); h.notes[s] = append(h.notes[s], h.notes[s][0]) }, []string{"lease"},
		},
		"an attempt is not on record": {func(h *history) { delete(h.attempts, ordered(nameFlaky)) }, []string{"attempts"}},
		"a failure without fingerprint": {
			func(h *history) { h.runs[ordered(nameDoomed)][0].fingerprint = "" }, []string{"failures"},
		},
		"a replayed run's earlier attempt is gone": {
			func(h *history) { h.runs[ordered(nameDoomed)][0].replayed = true }, []string{"replayed"},
		},
		"a kill is not on record": {
			func(h *history) { h.attempts[ordered(nameKiller)][0].kind = "error" }, []string{"kills"},
		},
		"nobody was told": {
			func(h *history) {
				s := ordered(nameDoomed)
				h.notes[s] = slices.DeleteFunc(h.notes[s], func(n note) bool { return n.what == noteExhausted })
			}, []string{"exhausted"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := kept(t)
			c.spoil(h)
			var broken []string
			for i, p := range promises() {
				if _, found := p.check(h); len(found) > 0 {
					broken = append(broken, shortNames()[i])
				}
			}
			if !slices.Equal(broken, c.breaks) {
				t.Errorf("broken: %v, want %v", broken, c.breaks)
			}
		})
	}
}

// shortNames are those of promises(), in order.
func shortNames() []string {
	return []string{"committed", "lost", "absent", "business", "following", "one run", "added", "ends", "effects", "began", "lease", "attempts", "failures", "replayed", "kills", "exhausted"}
}

// kept is a history that keeps every promise and has a case of each.
func kept(t *testing.T) *history {
	t.Helper()
	o := Ordered{ID: "1", Way: wayTx, Script: Script{Flaky: 1, Doomed: true, Follow: true, Kills: true}}
	payload, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	h := &history{
		id: "1", known: entry{id: "1", fact: committed, checksum: checksum(payload), began: time.Unix(2, 0), ended: time.Unix(3, 0)}, ordered: o, orders: 1,
		added:    []addition{{name: "added-1", from: time.Unix(1, 0)}},
		payloads: map[string][]byte{topicOrdered: payload, topicPaid: []byte(`{"id":"1"}`)},
		runs:     map[subscription][]run{}, attempts: map[subscription][]attempt{}, notes: map[subscription][]note{}, effects: map[subscription][]int{},
	}
	for _, d := range duties() {
		s := subscription{d.topic, d.name}
		last := 1
		if d.name == nameFlaky || d.name == nameKiller {
			last = 2
		}
		h.runs[s] = []run{{subscription: s, status: store.Success, attempt: last}}
		for n := 1; n <= last && d.notes; n++ {
			h.notes[s] = append(h.notes[s], note{s, n, noteBegun})
		}
		if d.policy.Transactional {
			h.effects[s] = []int{1}
		}
	}
	added := subscription{topicOrdered, "added-1"}
	h.runs[added] = []run{{subscription: added, status: store.Success, attempt: 1}}
	flaky, killer, doomed := subscription{topicOrdered, nameFlaky}, subscription{topicOrdered, nameKiller}, subscription{topicOrdered, nameDoomed}
	h.attempts[flaky] = []attempt{{flaky, 1, "error", "fails"}}
	h.attempts[killer] = []attempt{{killer, 1, "abandoned", "died"}}
	fail(h, doomed, "error")
	h.attempts[doomed] = []attempt{{doomed, 1, "error", "fails"}}
	h.notes[doomed] = append(h.notes[doomed], note{doomed, 1, noteExhausted})
	return h
}

func fail(h *history, s subscription, kind string) {
	h.runs[s][0].status, h.runs[s][0].kind, h.runs[s][0].message, h.runs[s][0].fingerprint = store.Failed, kind, "fails", "f"
}

func dropRuns(h *history, topic string) {
	for s := range h.runs {
		if s.topic == topic {
			delete(h.runs, s)
		}
	}
}

func TestASeedIsASchedule(t *testing.T) {
	rates := map[kind]float64{faultKill: 12, faultRestart: 1}
	a, b := schedule(1, 30*time.Minute, rates), schedule(1, 30*time.Minute, rates)
	if !slices.Equal(a, b) {
		t.Error("one seed made two schedules")
	}
	if slices.Equal(a, schedule(2, 30*time.Minute, rates)) {
		t.Error("two seeds made one schedule")
	}
	count := map[kind]int{}
	for _, f := range a {
		count[f.kind]++
	}
	if count[faultKill] != 360 || count[faultRestart] != 30 {
		t.Errorf("faults in 30 minutes: %v, want 360 kills and 30 restarts", count)
	}
	if n := len(schedule(1, 20*time.Second, rates)); n != 5 {
		t.Errorf("%d faults in 20 s, want 4 kills and a restart", n)
	}
}
