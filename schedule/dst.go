package schedule

import (
	"errors"
	"fmt"
	"iter"
	"time"
	_ "time/tzdata" // for systems without a time zone database
)

// largestShift is the largest change of the clocks for which a fixed expression makes up.
// What is larger is a new calendar.
const largestShift = 3 * time.Hour

// load returns a zone by its name.
func load(name string) (*time.Location, error) {
	if name == "Local" {
		return nil, errors.New(`zone "Local" is not the same on every machine: want a name, such as Europe/Berlin or UTC`)
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("zone %s is not in the time zone database: want a name such as Europe/Berlin or UTC", quoted(name))
	}
	return zone, nil
}

// zoned is an expression on the clocks of a zone.
type zoned struct {
	*expression
	zone *time.Location
}

// stretch is a time during which the zone does not change its clocks.
type stretch struct {
	start, end time.Time // it is [start, end)
	offset     time.Duration

	// fresh is the first wall time whose ticks belong to the stretch. It may lie before
	// the wall time of start, after a gap, or after it, where wall times repeat.
	fresh time.Time
}

func (s stretch) wall(t time.Time) time.Time { return t.UTC().Add(s.offset) }

// instant returns when a tick with a fresh wall time is due. A tick in the gap before the
// stretch is due at the start.
func (s stretch) instant(wall time.Time) time.Time { return later(wall.Add(-s.offset), s.start) }

// freshAfter returns the first wall time whose ticks belong to the stretch and are due after t.
func (s stretch) freshAfter(t time.Time) time.Time {
	if t.Before(s.start) {
		return s.fresh
	}
	return later(s.fresh, s.wall(t).Add(1))
}

func (z zoned) next(after time.Time) (time.Time, bool) {
	// The calendar repeats every 400 years.
	for s := range z.stretches(after, after.AddDate(400, 0, 1)) {
		if wall, ok := z.first(s.freshAfter(after), s.wall(s.end)); ok {
			return s.instant(wall).In(z.zone), true
		}
	}
	return time.Time{}, false
}

func (z zoned) count(after, until time.Time) int {
	n := 0
	for s := range z.stretches(after, until.Add(1)) {
		fresh := s.freshAfter(after)
		n += z.expression.count(fresh, s.wall(s.end))
		if atStart := z.expression.count(fresh, s.wall(s.start).Add(1)); atStart > 1 {
			n -= atStart - 1 // the ticks of a gap are one
		}
	}
	return n
}

// stretches returns the stretches that end after a time, cut off at another.
func (z zoned) stretches(after, before time.Time) iter.Seq[stretch] {
	return func(yield func(stretch) bool) {
		before = earlier(before, endOfTime)
		// After a change backward, wall times repeat for at most largestShift.
		s := z.at(after.Add(-largestShift))
		s.fresh = s.wall(s.start)
		for s.start.Before(before) {
			cut := s
			cut.end = earlier(s.end, before)
			if s.end.After(after) && !yield(cut) {
				return
			}
			s = z.following(s)
		}
	}
}

// following returns the stretch after another. No zone has ever changed its clocks twice
// within largestShift.
func (z zoned) following(s stretch) stretch {
	next := z.at(s.end)
	next.fresh = next.wall(next.start)
	if shift := next.offset - s.offset; !z.wildcard && shift.Abs() <= largestShift {
		next.fresh = s.wall(s.end)
	}
	return next
}

// at returns the stretch that t is in, from t on.
func (z zoned) at(t time.Time) stretch {
	local := t.In(z.zone)
	_, offset := local.Zone()
	_, end := local.ZoneBounds()
	switch {
	case end.IsZero():
		end = endOfTime
	case !end.After(t):
		// For years that only a rule describes, ZoneBounds ends the last stretch of a
		// year after 365 days, also in a leap year.
		end = time.Date(t.UTC().Year()+1, time.January, 1, 0, 0, 0, 0, time.UTC)
	}
	return stretch{start: t, end: end, offset: time.Duration(offset) * time.Second}
}
