package schedule_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/reprise-bus/reprise/schedule"
)

// crontab is an expression that is not parsed, but drawn together with its meaning.
type crontab struct {
	text                string
	minute, hour, month map[int]bool
	day, weekday        func(day time.Time) bool
	wildcard, both      bool
}

func (c crontab) matches(wall time.Time) bool {
	if !c.minute[wall.Minute()] || !c.hour[wall.Hour()] || !c.month[int(wall.Month())] {
		return false
	}
	if c.both {
		return c.day(wall) && c.weekday(wall)
	}
	return c.day(wall) || c.weekday(wall)
}

// run lives through the minutes from one time to another as crond does: it looks at the
// clock each minute, and compares it with the minute up to which it has run its jobs. It
// returns the times at which it ran the job.
func (c crontab) run(from, to time.Time, zone *time.Location) (ran []time.Time) {
	const correction = 3 * time.Hour // a larger change starts afresh
	job := func(now time.Time, due bool) {
		if due && (len(ran) == 0 || !ran[len(ran)-1].Equal(now)) {
			ran = append(ran, now)
		}
	}
	from = from.Truncate(time.Minute)
	virtual := wall(from.Add(-time.Minute), zone)
	for now := from; !now.After(to); now = now.Add(time.Minute) {
		clock := wall(now, zone)
		switch change := clock.Sub(virtual) - time.Minute; {
		case change.Abs() > correction:
			job(now, c.matches(clock))
			virtual = clock
		case change < 0:
			job(now, c.wildcard && c.matches(clock))
		default:
			job(now, c.wildcard && c.matches(clock))
			for virtual.Before(clock) {
				virtual = virtual.Add(time.Minute)
				job(now, !c.wildcard && c.matches(virtual))
			}
		}
	}
	return ran
}

// wall returns what a clock in a zone shows, as a time in UTC.
func wall(t time.Time, zone *time.Location) time.Time {
	_, offset := t.In(zone).Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// zones change their clocks in every way that there is.
var zones = []string{
	"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Sao_Paulo", "Pacific/Apia", "Africa/Casablanca",
	"Europe/Dublin", "Antarctica/Troll", "Antarctica/Casey", "Asia/Kathmandu", "Asia/Pyongyang", "America/Caracas", "Asia/Gaza", "Pacific/Kwajalein",
	"America/Santiago", "America/Havana", "Asia/Beirut", "Asia/Tehran", "America/Nuuk", "Atlantic/Azores", "Europe/Volgograd", "Europe/Chisinau", "America/St_Johns",
}

// drawTime draws a time after 1973, since when the clocks stand at whole minutes. Half of
// the times are near a change of the clocks.
func drawTime(t *rapid.T, zone string) time.Time {
	location, err := time.LoadLocation(zone)
	require.NoError(t, err)
	const day = 24 * 60
	drawn := time.Unix(60*rapid.Int64Range(1096*day, 25_000*day).Draw(t, "minute"), 0)
	if !rapid.Bool().Draw(t, "near a change") {
		return drawn
	}
	_, offset := drawn.In(location).Zone()
	for change := drawn; change.Before(drawn.AddDate(1, 0, 0)); change = change.Add(6 * time.Hour) {
		if _, changed := change.In(location).Zone(); changed != offset {
			return change.Add(-time.Duration(rapid.IntRange(0, day).Draw(t, "minutes before")) * time.Minute)
		}
	}
	return drawn
}

func drawSchedule(t *rapid.T) schedule.Schedule {
	if rapid.IntRange(0, 4).Draw(t, "interval") == 0 {
		every := time.Duration(rapid.Int64Range(1000, 1_000_000_000).Draw(t, "every")) * time.Millisecond
		return valid(t, schedule.Interval(every, schedule.From(time.UnixMilli(rapid.Int64Range(-1_000_000_000_000, 4_000_000_000_000).Draw(t, "anchor")))))
	}
	return schedule.Cron(drawCrontab(t).text, schedule.In(rapid.SampledFrom(zones).Draw(t, "zone")))
}

func drawCrontab(t *rapid.T) crontab {
	months := []string{"", "Jan", "FEB", "mar", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}
	weekdays := []string{"SUN", "Mon", "TUE", "WED", "thu", "FRI", "SAT"}
	minute, minutes := drawField(t, "minute", 0, 59, nil)
	hour, hours := drawField(t, "hour", 0, 23, nil)
	day, days := drawField(t, "day", 1, 31, nil)
	month, inMonths := "*", map[int]bool{1: true, 2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 8: true, 9: true, 10: true, 11: true, 12: true}
	if rapid.IntRange(0, 4).Draw(t, "in some months") == 0 {
		month, inMonths = drawField(t, "month", 1, 12, months)
	}
	weekday, onWeekdays := drawField(t, "weekday", 0, 7, weekdays)
	onWeekdays[0] = onWeekdays[0] || onWeekdays[7]

	lastDay := rapid.IntRange(0, 4).Draw(t, "last day") == 0
	if lastDay {
		day += ",L"
	}
	special, nth, last := time.Weekday(rapid.IntRange(0, 6).Draw(t, "special weekday")), 0, false
	switch rapid.IntRange(0, 8).Draw(t, "nth") {
	case 0:
		nth = rapid.IntRange(1, 5).Draw(t, "of month")
		weekday += fmt.Sprintf(",%s#%d", weekdays[special], nth)
	case 1:
		last = true
		weekday += fmt.Sprintf(",%dL", special)
	}
	return crontab{
		text: strings.Join([]string{minute, hour, day, month, weekday}, " "), minute: minutes, hour: hours, month: inMonths,
		day: func(d time.Time) bool { return days[d.Day()] || lastDay && d.AddDate(0, 0, 1).Day() == 1 },
		weekday: func(d time.Time) bool {
			if onWeekdays[int(d.Weekday())] {
				return true
			}
			before := 0 // days of the same name in the month
			for earlier := d.AddDate(0, 0, -7); earlier.Month() == d.Month(); earlier = earlier.AddDate(0, 0, -7) {
				before++
			}
			return d.Weekday() == special && (nth == before+1 || last && d.AddDate(0, 0, 7).Month() != d.Month())
		},
		wildcard: minute[0] == '*' || hour[0] == '*', both: day[0] == '*' || weekday[0] == '*',
	}
}

// drawField draws a field and its values.
func drawField(t *rapid.T, label string, least, most int, names []string) (string, map[int]bool) {
	written := func(n int) string {
		if n < len(names) && rapid.Bool().Draw(t, label+" by name") {
			return names[n]
		}
		return fmt.Sprint(n)
	}
	values := map[int]bool{}
	var items []string
	for range rapid.IntRange(1, 3).Draw(t, label+" items") {
		first, last, step, item := least, most, 1, "*"
		switch rapid.IntRange(0, 5).Draw(t, label+" item") {
		case 0, 1:
		case 2, 3:
			first = rapid.IntRange(least, most).Draw(t, label+" value")
			last, item = first, written(first)
		default:
			first = rapid.IntRange(least, most).Draw(t, label+" first")
			last = rapid.IntRange(first, most).Draw(t, label+" last")
			item = written(first) + "-" + fmt.Sprint(last)
		}
		if (item == "*" || first != last) && rapid.Bool().Draw(t, label+" steps") {
			step = rapid.IntRange(1, most).Draw(t, label+" step")
			item += fmt.Sprintf("/%d", step)
		}
		for n := first; n <= last; n += step {
			values[n] = true
		}
		items = append(items, item)
	}
	return strings.Join(items, ","), values
}

// likeCrond holds that Between has the ticks at which crond would run a job, and that
// Decide counts them.
func likeCrond(t *rapid.T) {
	c := drawCrontab(t)
	zone := rapid.SampledFrom(zones).Draw(t, "zone")
	from := drawTime(t, zone)
	to := from.AddDate(0, 0, 2)
	location, err := time.LoadLocation(zone)
	require.NoError(t, err)

	want := slices.DeleteFunc(c.run(from.AddDate(0, 0, -1), to, location), func(t time.Time) bool { return t.Before(from) })
	s := schedule.Cron(c.text, schedule.In(zone))
	if err := s.Validate(); err != nil {
		require.ErrorContains(t, err, "is never due", c.text)
		require.Empty(t, want)
		return
	}
	got := collect(s, from, to.Add(1))
	require.Equal(t, formatted(want, time.UnixDate), formatted(inUTC(got), time.UnixDate), "%s in %s from %v", c.text, zone, from)
	if len(got) > 0 {
		d := s.Decide(got[0], to, schedule.Latest, 0)
		require.Equal(t, got[len(got)-1:], d.Ticks)
		require.Equal(t, len(got)-1, d.Missed)
	}
}

func inUTC(times []time.Time) (utc []time.Time) {
	for _, t := range times {
		utc = append(utc, t.UTC())
	}
	return utc
}
