package schedule_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/schedule"
)

// Processes of different versions and builds must agree: these values never change.
func TestJitterIsTheSameInAllProcesses(t *testing.T) {
	t.Parallel()
	tick := time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)
	require.Equal(t, 29_384*time.Millisecond, schedule.Jitter("nightly-report", tick, time.Minute))
	require.Equal(t, 27_849*time.Millisecond, schedule.Jitter("nightly-report", tick.AddDate(0, 0, 1), time.Minute))
	require.Equal(t, schedule.Jitter("nightly-report", tick, time.Hour), schedule.Jitter("nightly-report", tick.In(time.FixedZone("", 3600)), time.Hour))
	for _, width := range []time.Duration{0, -time.Hour, 1, time.Millisecond} {
		require.Zero(t, schedule.Jitter("nightly-report", tick, width))
	}
}

func TestJitterIsSpreadOverItsWidth(t *testing.T) {
	t.Parallel()
	var tenths [10]int
	for i := range 10_000 {
		j := schedule.Jitter(fmt.Sprint("schedule-", i%100), time.UnixMilli(int64(i/100)*60_000), 10*time.Second)
		require.True(t, 0 <= j && j < 10*time.Second && j%time.Millisecond == 0)
		tenths[j/time.Second]++
	}
	for _, n := range tenths {
		require.InDelta(t, 1000, n, 200)
	}
}
