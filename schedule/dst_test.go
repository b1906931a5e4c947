package schedule_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/schedule"
)

// What becomes of ticks when the clocks change: each case is a zone, an expression, and all
// ticks between two times of that zone.
func TestTicksWhenTheClocksChange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		zone, from, to, text string
		want                 []string
	}{
		// Berlin, 31 March 2024: 02:00 becomes 03:00.
		{"Europe/Berlin", "2024-03-31 00:00", "2024-04-01 00:00", "30 2 * * *", []string{"03-31 03:00 +02"}},
		{"Europe/Berlin", "2024-03-31 00:00", "2024-04-01 00:00", "0 2 * * *", []string{"03-31 03:00 +02"}},
		{"Europe/Berlin", "2024-03-31 00:00", "2024-04-01 00:00", "0,30 1-3 * * *", []string{"03-31 01:00 +01", "03-31 01:30 +01", "03-31 03:00 +02", "03-31 03:30 +02"}},
		{"Europe/Berlin", "2024-03-31 00:00", "2024-04-01 00:00", "10,20 2 * * *", []string{"03-31 03:00 +02"}},
		{"Europe/Berlin", "2024-03-31 00:00", "2024-04-01 00:00", "0-59/15 2 * * *", []string{"03-31 03:00 +02"}},
		{"Europe/Berlin", "2024-03-31 00:00", "2024-04-01 00:00", "0 3 * * *", []string{"03-31 03:00 +02"}},
		{"Europe/Berlin", "2024-03-31 00:00", "2024-04-01 00:00", "*/15 2 * * *", nil},
		{"Europe/Berlin", "2024-03-31 01:30", "2024-03-31 03:30", "*/15 * * * *", []string{"03-31 01:30 +01", "03-31 01:45 +01", "03-31 03:00 +02", "03-31 03:15 +02"}},
		{"Europe/Berlin", "2024-03-31 00:00", "2024-03-31 07:00", "0 */2 * * *", []string{"03-31 00:00 +01", "03-31 04:00 +02", "03-31 06:00 +02"}},

		// Berlin, 27 October 2024: 03:00 becomes 02:00.
		{"Europe/Berlin", "2024-10-27 00:00", "2024-10-28 00:00", "30 2 * * *", []string{"10-27 02:30 +02"}},
		{"Europe/Berlin", "2024-10-27 00:00", "2024-10-28 00:00", "0 3 * * *", []string{"10-27 03:00 +01"}},
		{"Europe/Berlin", "2024-10-27 01:00", "2024-10-27 03:30", "0,30 1-3 * * *", []string{"10-27 01:00 +02", "10-27 01:30 +02", "10-27 02:00 +02", "10-27 02:30 +02", "10-27 03:00 +01"}},
		{"Europe/Berlin", "2024-10-27 00:00", "2024-10-27 04:00", "0 * * * *", []string{"10-27 00:00 +02", "10-27 01:00 +02", "10-27 02:00 +02", "10-27 02:00 +01", "10-27 03:00 +01"}},
		{"Europe/Berlin", "2024-10-27 00:00", "2024-10-27 04:00", "@hourly", []string{"10-27 00:00 +02", "10-27 01:00 +02", "10-27 02:00 +02", "10-27 02:00 +01", "10-27 03:00 +01"}},
		{"Europe/Berlin", "2024-10-27 00:00", "2024-10-27 04:00", "0 0,* * * *", []string{"10-27 00:00 +02", "10-27 01:00 +02", "10-27 02:00 +02", "10-27 03:00 +01"}}, // does not begin with *
		{"Europe/Berlin", "2024-10-27 01:00", "2024-10-27 04:00", "0,*/30 2 * * *", []string{"10-27 02:00 +02", "10-27 02:30 +02"}},
		{"Europe/Berlin", "2024-10-27 00:00", "2024-10-27 04:00", "0 0-23 * * *", []string{"10-27 00:00 +02", "10-27 01:00 +02", "10-27 02:00 +02", "10-27 03:00 +01"}},
		{"Europe/Berlin", "2024-10-27 00:00", "2024-10-28 00:00", "*/30 2 * * *", []string{"10-27 02:00 +02", "10-27 02:30 +02", "10-27 02:00 +01", "10-27 02:30 +01"}},

		{"America/New_York", "2024-03-10 00:00", "2024-03-11 00:00", "30 2 * * *", []string{"03-10 03:00 -04"}},
		{"America/New_York", "2024-11-03 00:00", "2024-11-04 00:00", "30 1 * * *", []string{"11-03 01:30 -04"}},
		{"America/New_York", "2024-11-03 00:00", "2024-11-04 00:00", "0 2 * * *", []string{"11-03 02:00 -05"}},

		// Lord Howe moves by half an hour.
		{"Australia/Lord_Howe", "2024-10-06 00:00", "2024-10-07 00:00", "15 2 * * *", []string{"10-06 02:30 +11"}},
		{"Australia/Lord_Howe", "2024-10-06 00:00", "2024-10-07 00:00", "45 2 * * *", []string{"10-06 02:45 +11"}},
		{"Australia/Lord_Howe", "2024-04-07 00:00", "2024-04-08 00:00", "45 1 * * *", []string{"04-07 01:45 +11"}},
		{"Australia/Lord_Howe", "2024-04-07 01:00", "2024-04-07 02:30", "*/30 * * * *", []string{"04-07 01:00 +11", "04-07 01:30 +11", "04-07 01:30 +10", "04-07 02:00 +10"}},

		// Days without midnight.
		{"America/Sao_Paulo", "2018-11-03 00:00", "2018-11-05 12:00", "0 0 * * *", []string{"11-03 00:00 -03", "11-04 01:00 -02", "11-05 00:00 -02"}},
		{"America/Sao_Paulo", "2018-11-03 12:00", "2018-11-04 12:00", "@daily", []string{"11-04 01:00 -02"}},
		{"America/Sao_Paulo", "2018-11-03 23:00", "2018-11-04 02:30", "0 * * * *", []string{"11-03 23:00 -03", "11-04 01:00 -02", "11-04 02:00 -02"}},
		{"America/Sao_Paulo", "2018-02-17 12:00", "2018-02-18 12:00", "30 23 * * *", []string{"02-17 23:30 -02"}},
		{"America/Sao_Paulo", "2018-02-17 12:00", "2018-02-18 12:00", "0 0 * * *", []string{"02-18 00:00 -03"}},
		{"Africa/Cairo", "2024-04-25 00:00", "2024-04-27 12:00", "0 0 * * *", []string{"04-25 00:00 +02", "04-26 01:00 +03", "04-27 00:00 +03"}},
		{"Africa/Cairo", "2024-10-31 00:00", "2024-11-01 12:00", "0 0 * * *", []string{"10-31 00:00 +03", "11-01 00:00 +02"}},
		{"Africa/Cairo", "2024-10-31 00:00", "2024-11-01 12:00", "30 23 * * *", []string{"10-31 23:30 +03"}},
		{"America/Sao_Paulo", "2018-11-03 12:00", "2018-11-05 12:00", "0 0 4 11 *", []string{"11-04 01:00 -02"}},

		// A change of three hours is one of the clocks, a larger one is a new calendar.
		{"Antarctica/Casey", "2009-10-18 00:00", "2009-10-19 00:00", "0 3 * * *", []string{"10-18 05:00 +11"}},
		{"Antarctica/Casey", "2010-03-04 12:00", "2010-03-05 12:00", "0 0 * * *", []string{"03-05 00:00 +11"}},
		{"Pacific/Apia", "2011-12-29 00:00", "2012-01-01 00:00", "0 2 * * *", []string{"12-29 02:00 -10", "12-31 02:00 +14"}},
		{"Pacific/Apia", "2011-12-29 00:00", "2012-01-01 00:00", "0 0 * * *", []string{"12-29 00:00 -10", "12-31 00:00 +14"}},
		{"Pacific/Apia", "2011-12-29 00:00", "2012-01-01 00:00", "0 */12 * * *", []string{"12-29 00:00 -10", "12-29 12:00 -10", "12-31 00:00 +14", "12-31 12:00 +14"}},
		{"Pacific/Apia", "2011-12-29 00:00", "2013-01-01 00:00", "0 2 30 12 *", []string{"12-30 02:00 +14"}},
		{"Pacific/Kwajalein", "1969-09-30 00:00", "1969-10-01 12:00", "0 2 * * *", []string{"09-30 02:00 +11", "09-30 02:00 -12", "10-01 02:00 -12"}},

		// Not by daylight saving time, but forever.
		{"Asia/Pyongyang", "2015-08-14 12:00", "2015-08-15 12:00", "45 23 * * *", []string{"08-14 23:45 +09"}},
		{"Asia/Pyongyang", "2018-05-04 12:00", "2018-05-05 12:00", "45 23 * * *", []string{"05-05 00:00 +09"}},

		// Where a rule, not a list, says when the clocks change.
		{"Europe/Berlin", "2096-03-25 00:00", "2096-03-26 00:00", "30 2 * * *", []string{"03-25 03:00 +02"}},
		{"Europe/Berlin", "2096-12-30 00:00", "2097-01-02 00:00", "0 12 * * *", []string{"12-30 12:00 +01", "12-31 12:00 +01", "01-01 12:00 +01"}},
		{"Australia/Sydney", "2096-12-30 00:00", "2097-01-02 00:00", "0 12 * * *", []string{"12-30 12:00 +11", "12-31 12:00 +11", "01-01 12:00 +11"}},

		// Clocks once stood at odd seconds.
		{"Europe/Berlin", "1893-03-31 12:00", "1893-04-01 12:00", "3 0 * * *", []string{"04-01 00:06 +01"}},
		{"Africa/Monrovia", "1972-01-06 12:00", "1972-01-08 12:00", "0 0 * * *", []string{"01-07 00:44 +00", "01-08 00:00 +00"}},
	} {
		s := valid(t, schedule.Cron(c.text, schedule.In(c.zone)))
		ticks := collect(s, at(t, c.zone, c.from), at(t, c.zone, c.to))
		require.Equal(t, append([]string{}, c.want...), formatted(ticks, "01-02 15:04 -07"), "%v from %s", s, c.from)
	}
}

// Whatever the time from which one asks, a fixed time that was due is not due again.
func TestNextFromWithinTheRepeatedHour(t *testing.T) {
	t.Parallel()
	s := schedule.Cron("30 2 * * *", schedule.In("Europe/Berlin"))
	due := time.Date(2024, 10, 27, 0, 30, 0, 0, time.UTC)
	for minutes := range 4 * 60 {
		tick, ok := s.Next(due.Add(time.Duration(minutes) * time.Minute))
		require.True(t, ok)
		require.Equal(t, "2024-10-28 02:30:00 +0100", tick.Format(layout), minutes)
	}
}

// Several ticks in a gap are one, also where they are counted.
func TestTheTicksOfAGapAreCountedAsOne(t *testing.T) {
	t.Parallel()
	s := schedule.Cron("10,20 1-3 * * *", schedule.In("Europe/Berlin"))
	from, to := at(t, "Europe/Berlin", "2024-03-31 01:10"), at(t, "Europe/Berlin", "2024-03-31 12:00")
	require.Equal(t, []string{"01:10", "01:20", "03:00", "03:10", "03:20"}, formatted(collect(s, from, to), "15:04"))
	require.Equal(t, 4, s.Decide(from, to, schedule.Latest, 0).Missed)
}

// In the night of the repeated hour a job of every quarter follows real time.
func TestQuartersInTheRepeatedHour(t *testing.T) {
	t.Parallel()
	s := schedule.Cron("*/15 * * * *", schedule.In("Europe/Berlin"))
	from := time.Date(2024, 10, 27, 0, 0, 0, 0, time.UTC) // 02:00, the first time
	ticks := collect(s, from, from.Add(3*time.Hour+1))
	require.Len(t, ticks, 13)
	for i, tick := range ticks {
		require.True(t, tick.Equal(from.Add(time.Duration(i)*15*time.Minute)))
	}
}

// An interval is elapsed time: no zone and no change of the clocks touches it.
func TestAnIntervalIgnoresTheClocks(t *testing.T) {
	t.Parallel()
	s := valid(t, schedule.Interval(24*time.Hour, schedule.From(at(t, "Europe/Berlin", "2024-03-30 02:30"))))
	ticks := collect(s, at(t, "Europe/Berlin", "2024-03-30 00:00"), at(t, "Europe/Berlin", "2024-04-02 00:00"))
	require.Equal(t, []string{"30 01:30", "31 01:30", "01 01:30"}, formatted(ticks, "02 15:04"))
}

// The table in the documentation of the package is what happens.
func TestTheTableOfTheDocumentation(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "31 March                      27 October\n")
	require.True(t, found)
	row := regexp.MustCompile(`^//\t(\S+ \S+ \* \* \*) +(.+?)  +(.+)$`)
	rows := 0
	for line := range strings.Lines(table) {
		m := row.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			break
		}
		rows++
		s := valid(t, schedule.Cron(m[1], schedule.In("Europe/Berlin")))
		for day, cell := range map[string]string{"2024-03-31": m[2], "2024-10-27": strings.TrimSuffix(m[3], ", the first time")} {
			from := at(t, "Europe/Berlin", day+" 00:00")
			got := formatted(collect(s, from, from.AddDate(0, 0, 1)), "15:04")
			switch start, more := strings.CutSuffix(cell, " …"); {
			case more:
				require.Contains(t, strings.Join(got, " "), start, m[1])
				require.Equal(t, got[0], start[:5])
			case cell == "none":
				require.Empty(t, got)
			case cell == "eight":
				require.Len(t, got, 8)
			default:
				require.Equal(t, cell, strings.Join(got, " "), fmt.Sprint(m[1], " on ", day))
			}
		}
	}
	require.Equal(t, 4, rows)
}
