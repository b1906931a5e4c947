package schedule

import (
	"errors"
	"fmt"
	"iter"
	"time"
)

// Schedule is a series of ticks: times at which something is due. [Cron] and [Interval]
// make schedules. A mistake in their arguments makes an invalid Schedule, which has no
// ticks, and whose Validate returns the mistake.
type Schedule struct {
	parts Parts
	ticks ticks // nil if the schedule is invalid
	err   error
}

// ticks are the ticks of one kind of schedule.
type ticks interface {
	// next returns the first tick after a time, if there is one.
	next(after time.Time) (time.Time, bool)
	// count returns the number of ticks after a time and until another, inclusive.
	count(after, until time.Time) int
}

// Ticks lie in the years 1 to 9999, as the times of databases and of JSON do.
var (
	beginningOfTime = time.Time{}
	endOfTime       = time.Date(10000, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// Parts are what defines a schedule, in a form for a row of a database. Either Cron or
// Every is set. The parts of two schedules are equal (==) if and only if they are
// defined alike.
type Parts struct {
	Cron   string        // the expression
	Zone   string        // of the clocks that a cron expression means; default UTC
	Every  time.Duration // the interval
	Anchor time.Time     // the first tick of an interval; default 1970-01-01 00:00 UTC
}

// Schedule returns the schedule that the parts define. It ignores the Zone of an
// interval and the Anchor of a cron expression.
func (p Parts) Schedule() Schedule {
	switch {
	case p.Cron != "" && p.Every != 0:
		return Schedule{parts: p, err: fmt.Errorf("cron %s and interval %v: want one of them", quoted(p.Cron), p.Every)}
	case p.Every != 0:
		return Interval(p.Every, From(p.Anchor))
	}
	return Cron(p.Cron, In(p.Zone))
}

// Parts returns what defines the schedule. For every valid schedule s,
// s.Parts().Schedule() is the same schedule.
func (s Schedule) Parts() Parts { return s.parts }

// Validate returns what is wrong with the schedule, or nil.
func (s Schedule) Validate() error {
	if s.ticks == nil && s.err == nil {
		return errors.New("the schedule is empty: want one that schedule.Cron or schedule.Interval returned")
	}
	return s.err
}

// Warnings returns what is valid but may not be what its author means, in sentences for
// people. Most schedules have none.
func (s Schedule) Warnings() []string {
	if c, ok := s.ticks.(zoned); ok {
		return c.warnings()
	}
	return nil
}

// String returns the schedule for people to read.
func (s Schedule) String() string {
	switch p := s.parts; {
	case p.Every != 0 && p.Cron == "":
		return fmt.Sprintf("every %v from %s", p.Every, p.Anchor.Format(time.RFC3339Nano))
	case p.Cron != "":
		return fmt.Sprintf("cron %q in %s", p.Cron, p.Zone)
	}
	return "an empty schedule"
}

// Next returns the first tick after a time, strictly, in the schedule's zone. It returns
// false if the schedule is invalid, if the tick would lie after the year 9999, or if the
// next 400 years have none. Only clocks that are never seen can be the cause of the
// last: "*/5 2 * 3 SUNL" names minutes that Berlin's clocks always leave out.
func (s Schedule) Next(after time.Time) (time.Time, bool) {
	if s.ticks == nil || !after.Before(endOfTime) {
		return time.Time{}, false
	}
	return s.ticks.next(later(after, beginningOfTime))
}

// Between returns the ticks from one time on, inclusive, and before another, oldest
// first.
func (s Schedule) Between(from, to time.Time) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		for tick, ok := s.Next(from.Add(-1)); ok && tick.Before(to) && yield(tick); {
			tick, ok = s.Next(tick)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
