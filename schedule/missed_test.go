package schedule_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/reprise-bus/reprise/schedule"
)

func TestMissedTicks(t *testing.T) {
	t.Parallel()
	hourly := schedule.Interval(time.Hour)
	ten := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	hours := func(from, to int) (ticks []time.Time) {
		for h := from; h <= to; h++ {
			ticks = append(ticks, ten.Add(time.Duration(h)*time.Hour))
		}
		return ticks
	}
	for name, c := range map[string]struct {
		now    time.Time
		policy schedule.Missed
		within time.Duration
		want   schedule.Decision
	}{
		"too early":                        {ten.Add(-1), schedule.Latest, 0, schedule.Decision{Next: ten}},
		"in time, latest":                  {ten, schedule.Latest, 0, schedule.Decision{Ticks: hours(0, 0), Next: hours(1, 1)[0]}},
		"in time, all":                     {ten, schedule.All, 0, schedule.Decision{Ticks: hours(0, 0), Next: hours(1, 1)[0]}},
		"in time, skip":                    {ten.Add(time.Second), schedule.Skip, 0, schedule.Decision{Ticks: hours(0, 0), Next: hours(1, 1)[0]}},
		"in time, no policy":               {ten, "", 0, schedule.Decision{Ticks: hours(0, 0), Next: hours(1, 1)[0]}},
		"a minute late, skip":              {ten.Add(time.Minute), schedule.Skip, 0, schedule.Decision{Ticks: hours(0, 0), Next: hours(1, 1)[0]}},
		"late, skip":                       {ten.Add(time.Minute + 1), schedule.Skip, 0, schedule.Decision{Missed: 1, Expired: 1, Next: hours(1, 1)[0]}},
		"late within a window, skip":       {ten.Add(2 * time.Minute), schedule.Skip, time.Hour, schedule.Decision{Ticks: hours(0, 0), Next: hours(1, 1)[0]}},
		"three missed, latest":             {ten.Add(3*time.Hour + 59*time.Minute), schedule.Latest, 0, schedule.Decision{Ticks: hours(3, 3), Missed: 3, Next: hours(4, 4)[0]}},
		"three missed, all":                {ten.Add(3*time.Hour + 59*time.Minute), schedule.All, 0, schedule.Decision{Ticks: hours(0, 3), Next: hours(4, 4)[0]}},
		"three missed, skip":               {ten.Add(3*time.Hour + 59*time.Minute), schedule.Skip, 0, schedule.Decision{Missed: 4, Expired: 4, Next: hours(4, 4)[0]}},
		"three missed, the fourth in time": {ten.Add(3 * time.Hour), schedule.Skip, 0, schedule.Decision{Ticks: hours(3, 3), Missed: 3, Expired: 3, Next: hours(4, 4)[0]}},
		"some expired, latest":             {ten.Add(3 * time.Hour), schedule.Latest, time.Hour, schedule.Decision{Ticks: hours(3, 3), Missed: 3, Expired: 2, Next: hours(4, 4)[0]}},
		"some expired, all":                {ten.Add(3 * time.Hour), schedule.All, time.Hour, schedule.Decision{Ticks: hours(2, 3), Missed: 2, Expired: 2, Next: hours(4, 4)[0]}},
		"all expired":                      {ten.Add(90 * time.Minute), schedule.All, time.Minute, schedule.Decision{Missed: 2, Expired: 2, Next: hours(2, 2)[0]}},
		"two years away":                   {ten.AddDate(2, 0, 0), schedule.Latest, 0, schedule.Decision{Ticks: []time.Time{ten.AddDate(2, 0, 0)}, Missed: 731 * 24, Expired: 366 * 24, Next: ten.AddDate(2, 0, 0).Add(time.Hour)}},
	} {
		require.Equal(t, c.want, hourly.Decide(ten, c.now, c.policy, c.within), name)
	}
}

// All has more ticks than one Decision takes: the next one continues, and none is lost.
func TestAllTicksComeInPortions(t *testing.T) {
	t.Parallel()
	s := schedule.Cron("* * * * *", schedule.In("Europe/Berlin"))
	first := at(t, "Europe/Berlin", "2024-10-27 00:00")
	now := first.Add(25*time.Hour + time.Second)
	var ticks []time.Time
	decisions := 0
	for next := first; !next.After(now); decisions++ {
		d := s.Decide(next, now, schedule.All, 0)
		require.LessOrEqual(t, len(d.Ticks), schedule.MaxTicks)
		require.Zero(t, d.Missed)
		ticks, next = append(ticks, d.Ticks...), d.Next
	}
	require.Equal(t, collect(s, first, now), ticks)
	require.Len(t, ticks, 25*60+1)
	require.Equal(t, 4, decisions)
}

// Decide accounts for each due tick exactly once, whatever happens to be due.
func TestEachDueTickIsPublishedOrMissed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSchedule(t)
		next, ok := s.Next(drawTime(t, s.Parts().Zone))
		if !ok {
			return
		}
		now := next.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(40*time.Hour)).Draw(t, "late")))
		within := time.Duration(rapid.Int64Range(0, int64(50*time.Hour)).Draw(t, "within"))
		policy := rapid.SampledFrom([]schedule.Missed{schedule.Latest, schedule.All, schedule.Skip}).Draw(t, "policy")
		due := collect(s, next, now.Add(1))

		var published []time.Time
		missed, expired := 0, 0
		for decisions := 0; !next.IsZero() && !next.After(now); decisions++ {
			require.LessOrEqual(t, decisions, len(due)/schedule.MaxTicks)
			d := s.Decide(next, now, policy, within)
			require.True(t, d.Next.IsZero() || d.Next.After(next))
			require.LessOrEqual(t, d.Expired, d.Missed)
			published, next, missed, expired = append(published, d.Ticks...), d.Next, missed+d.Missed, expired+d.Expired
		}
		require.Equal(t, len(due), len(published)+missed)
		if following, ok := s.Next(now); ok && len(due) > 0 {
			require.Equal(t, following, next)
		}
		if policy == schedule.All {
			require.Equal(t, missed, expired)
			require.Equal(t, append([]time.Time(nil), due[expired:]...), published)
		} else {
			require.LessOrEqual(t, len(published), 1)
			require.Equal(t, len(published) == 1, expired < len(due))
			if len(published) == 1 {
				require.Equal(t, due[len(due)-1], published[0])
			}
		}
	})
}

// Ticks of a hundred years are not walked one by one, and stop no schedule.
func TestManyMissedTicks(t *testing.T) {
	t.Parallel()
	next := time.Date(1926, 1, 1, 0, 0, 0, 0, time.UTC)
	now := time.Date(2026, 3, 1, 10, 0, 30, 0, time.UTC)
	minutes, inWindow := int(now.Unix()-next.Unix())/60+1, 365*24*60
	for _, s := range []schedule.Schedule{schedule.Cron("* * * * *"), schedule.Cron("0-59 0-23 * * *"), schedule.Interval(time.Minute, schedule.From(next))} {
		d := s.Decide(next, now, schedule.Latest, 0)
		require.Equal(t, []time.Time{now.Truncate(time.Minute)}, d.Ticks)
		require.Equal(t, []int{minutes - 1, minutes - inWindow}, []int{d.Missed, d.Expired})

		d = s.Decide(next, now, schedule.Skip, 0)
		require.Equal(t, []time.Time{now.Truncate(time.Minute)}, d.Ticks)
		require.Equal(t, []int{minutes - 1, minutes - 1}, []int{d.Missed, d.Expired})

		d = s.Decide(next, now, schedule.All, 0)
		require.Len(t, d.Ticks, schedule.MaxTicks)
		require.Equal(t, []int{minutes - inWindow, minutes - inWindow}, []int{d.Missed, d.Expired})
		require.True(t, d.Next.Before(now))
	}
}

// The stored tick counts, also when the schedule or its zone has another meaning now.
func TestTheStoredTickIsTakenAsItIs(t *testing.T) {
	t.Parallel()
	s := schedule.Cron("0 2 * * *")
	stored := at(t, "UTC", "2026-03-01 01:30")
	require.Equal(t, schedule.Decision{Ticks: []time.Time{stored}, Next: at(t, "UTC", "2026-03-01 02:00")}, s.Decide(stored, stored.Add(time.Second), schedule.Latest, 0))
	last := time.Date(9999, 12, 31, 2, 0, 0, 0, time.UTC)
	for _, policy := range []schedule.Missed{schedule.Latest, schedule.All, schedule.Skip} {
		require.Equal(t, schedule.Decision{Ticks: []time.Time{last}}, s.Decide(last, last.Add(time.Second), policy, 0))
	}
}

func TestPoliciesForMissedTicks(t *testing.T) {
	t.Parallel()
	for _, m := range []schedule.Missed{"", schedule.Latest, schedule.All, schedule.Skip} {
		require.NoError(t, m.Validate())
	}
	require.EqualError(t, schedule.Missed("newest").Validate(), `policy for missed ticks "newest": want latest, all or skip`)
}
