package schedule

import (
	"fmt"
	"time"
)

// An IntervalOption changes an interval.
type IntervalOption func(*Parts)

// From sets the anchor of an interval: its first tick. All others follow at whole
// multiples of the interval. The anchor counts in whole milliseconds; the rest is cut
// off.
func From(anchor time.Time) IntervalOption {
	return func(p *Parts) { p.Anchor = anchor }
}

// Interval returns a schedule with a tick at its anchor and one every so often after it.
// The default anchor is 1970-01-01 00:00 UTC, in all processes: an interval of 1 hour is
// due on the hour, and one of 24 hours at midnight UTC.
//
// The interval is elapsed time. Time zones and their changes do not touch it: 24 hours
// are not always a day. For 9 o'clock each day use [Cron]. An interval is at least 1
// second, and a whole number of milliseconds.
func Interval(every time.Duration, options ...IntervalOption) Schedule {
	p := Parts{Every: every}
	for _, option := range options {
		option(&p)
	}
	p.Anchor = p.Anchor.Truncate(time.Millisecond).UTC()
	if p.Anchor.IsZero() {
		p.Anchor = time.UnixMilli(0).UTC()
	}
	s := Schedule{parts: p}
	switch {
	case every < time.Second:
		s.err = fmt.Errorf("interval %v: want at least 1 s", every)
	case every%time.Millisecond != 0:
		s.err = fmt.Errorf("interval %v: want whole milliseconds, such as %v", every, every.Truncate(time.Millisecond))
	case p.Anchor.Before(beginningOfTime) || !p.Anchor.Before(endOfTime):
		s.err = fmt.Errorf("anchor in the year %d of interval %v: want the years 1 to 9999", p.Anchor.Year(), every)
	default:
		s.ticks = interval{every: every.Milliseconds(), anchor: p.Anchor.UnixMilli()}
	}
	return s
}

// interval is an interval and its anchor, in milliseconds. Each tick is computed from the
// anchor, so that no error adds up.
type interval struct{ every, anchor int64 }

func (i interval) next(after time.Time) (time.Time, bool) {
	tick := time.UnixMilli(i.anchor + i.until(after)*i.every).UTC()
	if !tick.Before(endOfTime) {
		return time.Time{}, false
	}
	return tick, true
}

func (i interval) count(after, until time.Time) int {
	return int(max(i.until(until)-i.until(after), 0))
}

// until returns how many ticks there are until a time, inclusive.
func (i interval) until(t time.Time) int64 {
	elapsed := t.UnixMilli() - i.anchor
	if elapsed < 0 {
		return 0
	}
	return elapsed/i.every + 1
}
