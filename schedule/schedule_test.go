package schedule_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/reprise-bus/reprise/schedule"
)

const layout = "2006-01-02 15:04:05 -0700"

func at(t require.TestingT, zone, text string) time.Time {
	location, err := time.LoadLocation(zone)
	require.NoError(t, err)
	at, err := time.ParseInLocation("2006-01-02 15:04", text, location)
	require.NoError(t, err)
	return at
}

func valid(t require.TestingT, s schedule.Schedule) schedule.Schedule {
	require.NoError(t, s.Validate())
	return s
}

func formatted(times []time.Time, layout string) []string {
	texts := []string{}
	for _, t := range times {
		texts = append(texts, t.Format(layout))
	}
	return texts
}

func collect(s schedule.Schedule, from, to time.Time) []time.Time {
	return slices.Collect(s.Between(from, to))
}

// A schedule survives a row of a database: from its parts the same schedule is made.
func TestTheStoredPartsMakeTheSameSchedule(t *testing.T) {
	t.Parallel()
	lisbon, err := time.LoadLocation("Europe/Lisbon")
	require.NoError(t, err)
	anchor := time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, lisbon)
	for text, s := range map[string]schedule.Schedule{
		`cron "0 2 * * *" in UTC`:                          schedule.Cron("0 2 * * *"),
		`cron "0 2 * * *" in Europe/Berlin`:                schedule.Cron("  0\t2 *  * * ", schedule.In("Europe/Berlin")),
		`cron "@daily" in America/New_York`:                schedule.Cron("@daily", schedule.In("America/New_York")),
		"every 1h30m0s from 1970-01-01T00:00:00Z":          schedule.Interval(90 * time.Minute),
		"every 1.5s from 2026-03-01T12:00:00.123Z":         schedule.Interval(1500*time.Millisecond, schedule.From(anchor)),
		"every 2562047h0m0s from 1970-01-01T00:00:00.001Z": schedule.Interval(2562047*time.Hour, schedule.From(time.UnixMilli(1))),
	} {
		require.Equal(t, text, valid(t, s).String())
		stored := s.Parts()
		stored.Anchor = stored.Anchor.In(lisbon) // as a driver may return it
		again := valid(t, stored.Schedule())
		require.True(t, again.Parts() == s.Parts(), text)
		require.Equal(t, s, again)
	}
	require.Equal(t, schedule.Parts{Cron: "0 2 * * *", Zone: "UTC"}, schedule.Cron("0 2 * * *").Parts())
	require.Equal(t, schedule.Interval(time.Hour), schedule.Parts{Every: time.Hour, Zone: "Europe/Berlin"}.Schedule())
	require.NotEqual(t, schedule.Interval(time.Hour).Parts(), schedule.Interval(time.Hour, schedule.From(anchor)).Parts())

	require.EqualError(t, schedule.Parts{Cron: "0 2 * * *", Every: time.Hour}.Schedule().Validate(), `cron "0 2 * * *" and interval 1h0m0s: want one of them`)
	require.ErrorContains(t, schedule.Parts{}.Schedule().Validate(), `cron "" has 0 fields`)
}

func TestAnInvalidScheduleHasNoTicks(t *testing.T) {
	t.Parallel()
	for _, s := range []schedule.Schedule{{}, schedule.Cron("nonsense"), schedule.Cron("* * * * *", schedule.In("Mars/Olympus")), schedule.Interval(0)} {
		require.Error(t, s.Validate())
		_, ok := s.Next(time.Unix(0, 0))
		require.False(t, ok)
		require.Empty(t, collect(s, time.Unix(0, 0), time.Unix(1_000_000, 0)))
		require.Empty(t, s.Warnings())
		require.NotEmpty(t, s.String())
	}
}

// Next is strictly after its argument, never goes back, and passes over no tick.
func TestNextIsMonotone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSchedule(t)
		a := drawTime(t, s.Parts().Zone)
		next, ok := s.Next(a)
		if !ok {
			return
		}
		require.True(t, next.After(a))
		b := a.Add(time.Duration(rapid.Int64Range(0, int64(next.Sub(a))-1).Draw(t, "b")))
		again, ok := s.Next(b)
		require.True(t, ok)
		require.True(t, again.Equal(next), "Next(%v) = %v, Next(%v) = %v", a, next, b, again)
		again, ok = s.Next(next.Add(-1))
		require.True(t, ok)
		require.True(t, again.Equal(next))
		following, ok := s.Next(next)
		require.True(t, !ok || following.After(next))
	})
}

func TestTicksAreInTheYears1To9999(t *testing.T) {
	t.Parallel()
	for _, s := range []schedule.Schedule{
		schedule.Cron("* * * * *"), schedule.Cron("0 0 29 2 *", schedule.In("Pacific/Apia")), schedule.Cron("*/7 * L * FRIL", schedule.In("America/New_York")),
		schedule.Interval(time.Second), schedule.Interval(200 * 365 * 24 * time.Hour), schedule.Interval(time.Hour, schedule.From(time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC))),
	} {
		valid(t, s)
		for _, after := range []time.Time{
			time.Unix(-1<<62, 0), time.Unix(1<<62, 0), {}, time.UnixMilli(0), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC),
		} {
			tick, ok := s.Next(after)
			if !ok {
				require.True(t, tick.IsZero())
				continue
			}
			require.True(t, tick.After(after))
			require.True(t, tick.UTC().Year() >= 0 && tick.UTC().Year() < 10000, "%v: %v", s, tick)
		}
	}
	last, ok := schedule.Cron("* * * * *").Next(time.Date(9999, 12, 31, 23, 58, 0, 0, time.UTC))
	require.True(t, ok)
	_, ok = schedule.Cron("* * * * *").Next(last)
	require.False(t, ok)
}
