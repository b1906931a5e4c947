package schedule

import (
	"fmt"
	"time"
)

// Missed says what becomes of ticks that passed while no process looked, such as in an
// outage. Each policy has a window: a tick that is older is expired, and gets no event.
type Missed string

// The policies for missed ticks. "" is Latest.
const (
	Latest Missed = "latest" // the newest tick gets an event; window by default 365 days
	All    Missed = "all"    // every tick gets an event, oldest first; window by default 365 days
	Skip   Missed = "skip"   // like Latest, but the window is by default 1 minute: none comes late
)

// MaxTicks is the largest number of ticks of a Decision.
const MaxTicks = 500

// Validate returns what is wrong with the policy, or nil.
func (m Missed) Validate() error {
	switch m {
	case "", Latest, All, Skip:
		return nil
	}
	return fmt.Errorf("policy for missed ticks %s: want %s, %s or %s", quoted(string(m)), Latest, All, Skip)
}

func (m Missed) window() time.Duration {
	if m == Skip {
		return time.Minute
	}
	return 365 * 24 * time.Hour
}

// Decision says what is to be done at a time.
type Decision struct {
	// Ticks are those that get an event now, oldest first, at most MaxTicks.
	Ticks []time.Time

	// Missed is the number of due ticks that never get an event. Expired is how many of
	// them are older than the window.
	Missed, Expired int

	// Next is the tick to wait for. It is due already if there were more than MaxTicks:
	// decide again. It is zero if no tick is left.
	Next time.Time
}

// Decide decides which ticks get an event now. next is the tick that the schedule has been
// waiting for, the Next of the last Decision. Decide takes it as it is, also if the
// schedule or the zone has changed since. within is the window of the policy, or 0 for its
// default. The work grows with the days since next, not with the ticks.
func (s Schedule) Decide(next, now time.Time, policy Missed, within time.Duration) Decision {
	if next.After(now) {
		return Decision{Next: next}
	}
	if within <= 0 {
		within = policy.window()
	}
	// The ticks from first on are not expired.
	first, expired := next, 0
	if oldest := now.Add(-within); next.Before(oldest) {
		expired = 1 + s.count(next, oldest.Add(-1))
		first, _ = s.Next(oldest.Add(-1))
	}
	d := Decision{Missed: expired, Expired: expired}
	switch {
	case first.IsZero() || first.After(now):
		d.Next = first
	case policy == All:
		d.Ticks, d.Next = s.portion(first, now)
	default:
		d.Ticks = []time.Time{s.newest(first, now)}
		d.Missed += s.count(first, now)
		d.Next, _ = s.Next(now)
	}
	return d
}

// portion returns the ticks from a due one until a time, inclusive, at most MaxTicks, and
// the one after them. That is zero if there is none.
func (s Schedule) portion(tick, until time.Time) (ticks []time.Time, next time.Time) {
	for ok := true; ok; tick, ok = s.Next(tick) {
		if tick.After(until) || len(ticks) == MaxTicks {
			return ticks, tick
		}
		ticks = append(ticks, tick)
	}
	return ticks, time.Time{}
}

// newest returns the last tick until a time, inclusive. tick is one of them. It calls Next
// some 60 times, however many ticks there are.
func (s Schedule) newest(tick, until time.Time) time.Time {
	// No tick lies between late and until. Each round halves the time from tick to late.
	for late := until; ; {
		following, ok := s.Next(tick)
		if !ok || following.After(until) {
			return tick
		}
		tick = following
		middle := tick.Add(late.Sub(tick) / 2)
		if following, ok = s.Next(middle); ok && !following.After(until) {
			tick = following
		} else {
			late = middle
		}
	}
}

// count returns the number of ticks after a time and until another, inclusive.
func (s Schedule) count(after, until time.Time) int {
	if s.ticks == nil {
		return 0
	}
	return s.ticks.count(later(after, beginningOfTime), earlier(until, endOfTime.Add(-1)))
}
