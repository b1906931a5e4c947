package schedule_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/schedule"
)

// The days of an expression. A month with 31 days that begins on a Wednesday: January 2025.
func TestDaysOfAnExpression(t *testing.T) {
	t.Parallel()
	from := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string][]int{
		"0 0 13 * 5":      {3, 10, 13, 17, 24, 31}, // either
		"0 0 5,* * 1":     everyDay(31),            // either: the list does not begin with *
		"0 0 1-31/2 * 3":  {1, 3, 5, 7, 8, 9, 11, 13, 15, 17, 19, 21, 22, 23, 25, 27, 29, 31},
		"0 0 */2 * 3":     {1, 15, 29}, // both: a field begins with *
		"0 0 *,5 * 3":     {1, 8, 15, 22, 29},
		"0 0 13 * */2":    nil, // a Monday, and */2 is Sunday, Tuesday, Thursday and Saturday
		"0 0 14 * */2":    {14},
		"0 0 L * *":       {31},
		"0 0 L * MON":     {6, 13, 20, 27, 31},
		"0 0 L * */5":     {31}, // a Friday
		"0 0 * * FRI#2":   {10},
		"0 0 * * WED#1":   {1},
		"0 0 * * TUE#1":   {7},
		"0 0 * * WED#5":   {29},
		"0 0 * * MON#5":   nil,
		"0 0 * * FRIL":    {31},
		"0 0 * * SATL":    {25},
		"0 0 * * SUN,6L":  {5, 12, 19, 25, 26},
		"0 0 * * 5-7":     {3, 4, 5, 10, 11, 12, 17, 18, 19, 24, 25, 26, 31},
		"0 0 1-7 * MON":   {1, 2, 3, 4, 5, 6, 7, 13, 20, 27},
		"0 0 * 2-12 *":    nil,
		"0 0 10-20/5 1 *": {10, 15, 20},
	} {
		var days []int
		for tick := range schedule.Cron(text).Between(from, from.AddDate(0, 1, 0)) {
			days = append(days, tick.Day())
		}
		require.Equal(t, want, days, text)
	}
}

func everyDay(last int) (days []int) {
	for day := range last {
		days = append(days, day+1)
	}
	return days
}

// Rare days are found, however far away they are.
func TestRareDays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, after, want string }{
		{"0 0 29 2 *", "2096-02-29 00:00", "2104-02-29 00:00"},
		{"0 0 29 2 *", "2095-12-31 00:00", "2096-02-29 00:00"},
		{"0 0 L 2 *", "2100-01-01 00:00", "2100-02-28 00:00"},
		{"0 0 L 2 *", "2104-01-01 00:00", "2104-02-29 00:00"},
		{"59 23 31 12 *", "2025-12-31 23:59", "2026-12-31 23:59"},
		{"0 0 */28 2 MON#5", "2025-01-01 00:00", "2044-02-29 00:00"},
		{"0 0 */28 2 MON#5", "2072-02-29 00:00", "2112-02-29 00:00"}, // 2100 is no leap year
		{"0 0 * 2 SUN#5", "2025-01-01 00:00", "2032-02-29 00:00"},
		{"0 0 31 * *", "2025-01-31 00:00", "2025-03-31 00:00"},
	} {
		tick, ok := valid(t, schedule.Cron(c.text)).Next(at(t, "UTC", c.after))
		require.True(t, ok)
		require.Equal(t, at(t, "UTC", c.want), tick, c.text)
	}
}

// A zone may hide all times of an expression. Next finds out in bounded time.
func TestTimesThatNoClockShows(t *testing.T) {
	t.Parallel()
	hidden := valid(t, schedule.Cron("*/5 2 * 3 SUNL", schedule.In("Europe/Berlin")))
	_, ok := hidden.Next(at(t, "UTC", "2025-01-01 00:00"))
	require.False(t, ok)
	tick, ok := hidden.Next(at(t, "UTC", "1970-01-01 00:00"))
	require.True(t, ok, "there was a time without summer time")
	require.Equal(t, "1970-03-29 02:00:00 +0100", tick.Format(layout))
}
