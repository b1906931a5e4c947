package main

import (
	"math/rand/v2"

	"github.com/google/uuid"
)

// Ordered is what publishers publish. It carries the script of what is to
// happen to it, by which the audit knows how each of its runs must have ended.
type Ordered struct {
	ID     string `json:"id"` // also the message's
	Way    way    `json:"way"`
	Script Script `json:"script"`
}

// Paid follows Ordered under the same id: published together with it, or by
// its handler effect.
type Paid struct {
	ID string `json:"id"`
}

const (
	topicOrdered = "soak.ordered"
	topicPaid    = "soak.paid"
)

// EventName is the topic.
func (Ordered) EventName() string { return topicOrdered }

// EventName is the topic.
func (Paid) EventName() string { return topicPaid }

// EventID makes publishing it again safe.
func (o Ordered) EventID() string { return o.ID }

// EventID makes publishing it again safe.
func (p Paid) EventID() string { return p.ID }

// Script is what the handlers do to one event; each reads its own field. Zero
// is success at once.
type Script struct {
	Flaky   int  `json:"flaky,omitempty"`   // flaky fails on attempts up to this
	Doomed  bool `json:"doomed,omitempty"`  // doomed always fails
	Refused bool `json:"refused,omitempty"` // refuser and effect fail for good
	Undone  int  `json:"undone,omitempty"`  // effect fails on attempts up to this, after its write
	Follow  bool `json:"follow,omitempty"`  // effect publishes Paid in its transaction
	SlowMS  int  `json:"slow_ms,omitempty"` // slow sleeps as long,
	Deaf    bool `json:"deaf,omitempty"`    // whatever its context says
	Panics  int  `json:"panics,omitempty"`  // panicky panics on attempts up to this
	Kills   bool `json:"kills,omitempty"`   // killer kills its process on the first attempt
	Snoozes int  `json:"snoozes,omitempty"` // snoozing snoozes on attempts up to this
}

// always is more attempts than any run makes.
const always = 1 << 30

// newOrdered is a fresh event with a script by chance.
func newOrdered(rng *rand.Rand) Ordered {
	one := func(in int) bool { return rng.IntN(in) == 0 }
	o := Ordered{ID: uuid.Must(uuid.NewV7()).String(), Way: wayOf(rng)}
	s := &o.Script
	s.Doomed, s.Refused, s.Kills = one(20), one(20), one(400)
	s.Follow = o.Way != wayTogether && one(3)
	if one(4) {
		s.Flaky = 1 + rng.IntN(3)
	}
	if one(10) {
		s.Undone = 1 + rng.IntN(2)
	}
	switch {
	case one(100):
		s.SlowMS, s.Deaf = 1000+rng.IntN(4000), one(2)
	case one(10):
		s.SlowMS = 10 + rng.IntN(300)
	}
	switch {
	case one(40):
		s.Panics = always
	case one(20):
		s.Panics = 1
	}
	if one(10) {
		s.Snoozes = 1 + rng.IntN(3)
	}
	return o
}
