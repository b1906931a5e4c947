package schedule_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/schedule"
)

func TestAnIntervalCountsFromItsAnchor(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		every         time.Duration
		anchor, after time.Time
		want          time.Time
	}{
		{time.Hour, time.Time{}, noon, noon.Add(time.Hour)},
		{time.Hour, time.Time{}, noon.Add(-1), noon},
		{90 * time.Minute, time.Time{}, noon, noon.Add(90 * time.Minute)},
		{90 * time.Minute, noon.Add(10 * time.Minute), noon, noon.Add(10 * time.Minute)}, // none before the anchor
		{90 * time.Minute, noon.Add(10 * time.Minute), noon.Add(10 * time.Minute), noon.Add(100 * time.Minute)},
		{time.Second, noon.Add(500 * time.Microsecond), noon, noon.Add(time.Second)},                                                          // the anchor is cut to milliseconds
		{1001 * time.Millisecond, noon, noon.Add(1_000_000_000*1001*time.Millisecond - 1), noon.Add(1_000_000_000 * 1001 * time.Millisecond)}, // no drift
		{24 * time.Hour, time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), noon, noon.Add(12*time.Hour + time.Second)},
		{math.MaxInt64 / 1_000_000 * 1_000_000, noon, noon, noon.Add(math.MaxInt64 / 1_000_000 * 1_000_000)},
	} {
		tick, ok := valid(t, schedule.Interval(c.every, schedule.From(c.anchor))).Next(c.after)
		require.True(t, ok)
		require.Equal(t, c.want, tick, "%v from %v", c.every, c.anchor)
	}
}

func TestIntervalsThatAreRefused(t *testing.T) {
	t.Parallel()
	require.EqualError(t, schedule.Interval(0).Validate(), "interval 0s: want at least 1 s")
	require.EqualError(t, schedule.Interval(-time.Hour).Validate(), "interval -1h0m0s: want at least 1 s")
	require.EqualError(t, schedule.Interval(999*time.Millisecond).Validate(), "interval 999ms: want at least 1 s")
	require.EqualError(t, schedule.Interval(time.Second+time.Microsecond).Validate(), "interval 1.000001s: want whole milliseconds, such as 1s")
	require.EqualError(t, schedule.Interval(time.Hour, schedule.From(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))).Validate(), "anchor in the year 10000 of interval 1h0m0s: want the years 1 to 9999")
	require.Error(t, schedule.Interval(time.Hour, schedule.From(time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC))).Validate())
}
