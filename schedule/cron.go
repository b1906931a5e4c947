package schedule

import (
	"fmt"
	"iter"
	"math/bits"
	"strings"
	"time"
)

// A CronOption changes a cron schedule.
type CronOption func(*Parts)

// In sets the time zone whose clocks a cron expression means, by its name in the IANA time
// zone database, such as Europe/Berlin. The default is UTC.
func In(zone string) CronOption {
	return func(p *Parts) { p.Zone = zone }
}

// Cron returns a schedule that is due when a cron expression matches. The documentation of
// the package has the syntax, and says what happens when the clocks change.
func Cron(expression string, options ...CronOption) Schedule {
	p := Parts{Cron: expression}
	for _, option := range options {
		option(&p)
	}
	if p.Zone == "" {
		p.Zone = "UTC"
	}
	s := Schedule{parts: p}
	e, err := parse(expression)
	if err != nil {
		s.err = fmt.Errorf("cron %s %w", quoted(expression), err)
		return s
	}
	zone, err := load(p.Zone)
	if err != nil {
		s.err = fmt.Errorf("cron %q: %w", e.text, err)
		return s
	}
	s.parts.Cron, s.ticks = e.text, zoned{e, zone}
	return s
}

// expression is a parsed cron expression. Its methods know the calendar but no zone: a
// wall time is what a clock on the wall shows, as a time.Time in UTC.
type expression struct {
	text string // with single spaces

	// Bit n is set if the value n matches.
	minute, hour, day, month, weekday uint64

	lastDay bool      // the last day of a month matches
	nth     [7]uint64 // by weekday: bit n is set if its nth in the month matches
	last    [7]bool   // by weekday: its last in the month matches

	bothDays bool // a day must match both its fields; otherwise either will do
	wildcard bool // the minute or the hour begins with *
}

// matches reports whether the expression matches a day.
func (e *expression) matches(day time.Time) bool {
	n, weekday, left := day.Day(), day.Weekday(), daysIn(day)-day.Day()
	ofMonth := has(e.day, n) || e.lastDay && left == 0
	ofWeek := has(e.weekday, int(weekday)) || has(e.nth[weekday], (n+6)/7) || e.last[weekday] && left < 7
	if e.bothDays {
		return ofMonth && ofWeek
	}
	return ofMonth || ofWeek
}

// days returns the midnights of the matching days that overlap [from, before).
func (e *expression) days(from, before time.Time) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		if !from.Before(before) {
			return
		}
		year, month, n := from.Date()
		day := time.Date(year, month, n, 0, 0, 0, 0, time.UTC)
		for day.Before(before) {
			switch {
			case !has(e.month, int(day.Month())):
				day = time.Date(day.Year(), day.Month()+1, 1, 0, 0, 0, 0, time.UTC)
				continue
			case e.matches(day) && !yield(day):
				return
			}
			day = day.AddDate(0, 0, 1)
		}
	}
}

// first returns the first matching wall time in [from, before), if there is one.
func (e *expression) first(from, before time.Time) (time.Time, bool) {
	for day := range e.days(from, before) {
		if t, ok := e.timeOfDay(from.Sub(day)); ok {
			wall := day.Add(t)
			return wall, wall.Before(before)
		}
	}
	return time.Time{}, false
}

// timeOfDay returns the first matching time of a day, not before another, if there is one.
func (e *expression) timeOfDay(notBefore time.Duration) (time.Duration, bool) {
	hour, minute := clock(notBefore)
	for ; hour < 24; hour, minute = hour+1, 0 {
		if left := e.minute >> minute; has(e.hour, hour) && left != 0 {
			minute += bits.TrailingZeros64(left)
			return time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute, true
		}
	}
	return 0, false
}

// count returns the number of matching wall times in [from, before).
func (e *expression) count(from, before time.Time) int {
	n := 0
	for day := range e.days(from, before) {
		n += e.timesBefore(before.Sub(day)) - e.timesBefore(from.Sub(day))
	}
	return n
}

// timesBefore returns how many times of a day match and lie before another.
func (e *expression) timesBefore(before time.Duration) int {
	hour, minute := clock(before)
	n := bits.OnesCount64(e.hour&below(hour)) * bits.OnesCount64(e.minute)
	if has(e.hour, hour) {
		n += bits.OnesCount64(e.minute & below(minute))
	}
	return n
}

// warnings returns what may not be what the author of the expression means.
func (e *expression) warnings() []string {
	if e.bothDays {
		return nil
	}
	words := strings.Fields(e.text)
	return []string{fmt.Sprintf("day of month %q and day of week %q: the schedule is due on the days that match either of them. "+
		"For the first Monday of a month write * and MON#1. For other days that match both, write * for one of them, and test it where the event is handled.", words[2], words[4])}
}

// clock returns the hour and the minute of a time of a day, rounded up to a minute. A time
// before the day is its beginning, and one after it is 24:00.
func clock(t time.Duration) (hour, minute int) {
	t = min(max(t, 0), 24*time.Hour)
	minutes := int((t + time.Minute - 1) / time.Minute)
	return minutes / 60, minutes % 60
}

func daysIn(day time.Time) int {
	return time.Date(day.Year(), day.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

func has(set uint64, n int) bool { return set>>n&1 == 1 }

// below returns the set of all numbers below n.
func below(n int) uint64 { return 1<<n - 1 }
